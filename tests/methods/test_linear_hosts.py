"""LoHa, LoKr, VeRA and OFT at packed linear layers, under autocast and compiled in training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import inlay

from ..shapes import SHAPES, disturb, logits
from .one_host import close, one
from .test_lora_hosts import Packed

each_method = pytest.mark.parametrize(
    "method",
    [
        inlay.LoHa(rank=1),
        inlay.LoHa(rank=5),
        inlay.LoKr(rank=1),
        inlay.LoKr(rank=4),
        inlay.VeRA(rank=5),
        inlay.OFT(block_size=3),
        inlay.OFT(block_size=3, neumann=True),
    ],
    ids=repr,
)
each_with_dropout = pytest.mark.parametrize(
    "method",
    [
        inlay.LoHa(rank=2, dropout=0.5, module_dropout=0.3),
        inlay.LoKr(rank=2, dropout=0.5, module_dropout=0.3),
        inlay.VeRA(rank=5, dropout=0.5),
        inlay.OFT(block_size=8, dropout=0.5),
    ],
    ids=lambda method: method.name,
)


@each_method
@pytest.mark.parametrize("weight", ["parameter", "buffer", "another name"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_runs_once_and_is_never_read(method: inlay.Method, bias: bool, weight: str) -> None:
    host = Packed(bias, weight)
    model, adapter, delta = one(host, method)
    disturb(adapter, 0.5)
    calls: list[int] = []
    unpack = host.dense

    def counted() -> torch.Tensor:
        calls.append(1)
        return unpack()

    host.dense = counted  # type: ignore[method-assign]
    x = torch.randn(3, 6, requires_grad=True)
    y = model(x)
    assert len(calls) == 1
    dense = delta.fold({"weight": unpack()})["weight"]
    close(y, F.linear(x, dense, host.bias), 1e-5)
    assert not torch.allclose(dense, unpack(), atol=1e-3)
    y.square().sum().backward()
    close(x.grad, 2 * y @ dense, 1e-4)
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())


@each_with_dropout
def test_with_dropout_it_compiles_in_one_graph_in_training(method: inlay.Method) -> None:
    """PEFT's LoHa and LoKr break it into 15: they draw a random number and branch on it, even with no dropout."""
    torch.compiler.reset()
    shape = SHAPES["llama"]
    model = shape.model().train()
    disturb(inlay.attach(model, method))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    seen = []
    for run in (model, compiled, compiled):
        torch.manual_seed(0)
        seen.append(logits(run, shape, use_cache=False))
    close(seen[1], seen[2], 0)
    torch.manual_seed(1)
    assert not torch.equal(logits(compiled, shape, use_cache=False), seen[2])


@each_with_dropout
def test_gradient_checkpointing_drops_the_same_again(method: inlay.Method) -> None:
    shape, gradients = SHAPES["bert"], []
    for checkpointing in (False, True):
        model = shape.model().train()
        torch.manual_seed(0)
        adapter = inlay.attach(model, method)
        disturb(adapter)
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        torch.manual_seed(3)
        logits(model, shape).square().mean().backward()
        gradients.append([p.grad for p in adapter.parameters()])
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-6)


@each_method
def test_under_autocast_it_computes_nearly_the_same(method: inlay.Method) -> None:
    torch.manual_seed(0)
    model, adapter, _ = one(nn.Linear(48, 30), method)
    disturb(adapter, 0.1)
    x = torch.randn(20, 48)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.02 * expected.norm()
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in adapter.parameters())
