"""A model of one linear host with an adapter, and comparisons with a plain formula in float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay

from ..shapes import disturb


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def linear(inputs: int, outputs: int, kind: str = "linear") -> nn.Module:
    """A float64 host: nn.Linear, with or without its bias, or transformers' Conv1D, whose weight is transposed."""
    if kind == "conv1d":
        host = Conv1D(outputs, inputs)
        nn.init.normal_(host.bias)
        return host.double()
    return nn.Linear(inputs, outputs, bias=kind == "linear").double()


def dense(host: Any) -> Tensor:
    """The host's weight as (O, I)."""
    return host.weight.T if isinstance(host, Conv1D) else host.weight


def one(host: nn.Module, method: inlay.Method) -> tuple[nn.Module, inlay.Adapter, Any]:
    """A model of one host, its adapter and the delta."""
    model = nn.Sequential(host)
    adapter = inlay.attach(model, method)
    return model, adapter, adapter.deltas["0"]


def equals_the_formula(host: Any, method: inlay.Method, formula: Callable[[Tensor, dict[str, Tensor]], Tensor]) -> Any:
    """Outputs and all gradients are those of x W' + b, with W' = formula(W, the delta's parameters), in float64.

    Checked at the start and after every parameter has moved; returns the delta.
    """
    model, adapter, delta = one(host, method)
    for p in adapter.parameters():
        p.data = p.data.double()
    weight_OI = dense(host)
    generator = torch.Generator().manual_seed(2)
    x_BTI = torch.randn(2, 3, weight_OI.shape[1], dtype=torch.float64, generator=generator).requires_grad_()
    target_BTO = torch.randn(2, 3, weight_OI.shape[0], dtype=torch.float64, generator=generator)
    for moved in (False, True):
        if moved:
            disturb(adapter)
        y_BTO = model(x_BTI)
        own = torch.autograd.grad((y_BTO * target_BTO).sum(), [x_BTI, *adapter.parameters()])
        copies = {n: p.detach().clone().requires_grad_() for n, p in delta.named_parameters()}
        expected_BTO = x_BTI @ formula(weight_OI, copies).T
        if host.bias is not None:
            expected_BTO = expected_BTO + host.bias
        theirs = torch.autograd.grad((expected_BTO * target_BTO).sum(), [x_BTI, *copies.values()])
        close(y_BTO, expected_BTO)
        for a, b in zip(own, theirs, strict=True):
            close(a, b)
        close(delta.fold({"weight": weight_OI})["weight"], formula(weight_OI, copies))
        for rows in (x_BTI[0, 0], x_BTI[0], x_BTI[None]):  # any number of leading dimensions
            close(model(rows), rows @ formula(weight_OI, copies).T + (0 if host.bias is None else host.bias))
    return delta


def parameters_with_gradient(model: nn.Module, adapter: inlay.Adapter, inputs: int) -> set[str]:
    """The names of the delta's parameters whose gradient is not all zero at the first step."""
    model(torch.randn(5, inputs, dtype=next(model.parameters()).dtype)).square().sum().backward()
    return {name.rpartition(".")[2] for name, p in adapter.named_parameters() if p.grad is not None and p.grad.any()}
