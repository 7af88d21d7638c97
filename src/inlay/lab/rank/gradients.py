"""The gradient of each weight at the start, summed over batches in two halves, and what the halves agree on.

A direction that one half of the batches finds counts for what it is worth on the other: with u, s, v a singular triplet
of the one half's gradient, that is s u' G v with the other half's G. Noise, whose directions differ from half to half,
comes to about nothing; both ways around are averaged.

The weights need no gradient for it: an output's gradient times the layer's input is the weight's. Every base will do,
quantized ones too. Both halves are kept in float32, so it takes twice the model's memory in that.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...loss_scale import STEADY

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
Halves = tuple[Tensor, Tensor]


def gradients_of(
    model: nn.Module, hosts: list[str], batches: Iterator[dict[str, Tensor]], loss: Loss
) -> dict[str, Halves]:
    """Return dL/dW of each linear host, (O, I) on the CPU, over the batches 0, 2, 4 ... and over 1, 3, 5 ..."""
    sums: list[dict[str, Tensor]] = [{}, {}]
    half = 0

    def look(name: str, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], h: Tensor) -> Tensor:
        if not h.requires_grad:
            h = h.detach().requires_grad_()  # the base is frozen: gradients begin at the first of the hosts
        x_NI = (args[0] if args else next(iter(kwargs.values()))).detach().flatten(0, -2)
        h.register_hook(partial(add, name, x_NI))
        return h

    def add(name: str, x_NI: Tensor, g: Tensor) -> None:
        product_OI = (g.flatten(0, -2).float() / STEADY).T @ x_NI.float()
        known = sums[half].get(name)
        sums[half][name] = product_OI.cpu() if known is None else known.add_(product_OI.cpu())

    hooks: list[RemovableHandle] = [
        model.get_submodule(host).register_forward_hook(partial(look, host), with_kwargs=True) for host in hosts
    ]
    modes = {module: module.training for module in model.modules()}
    required = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        for number, batch in enumerate(batches):
            half = number % 2
            with torch.enable_grad():
                (STEADY * loss(model, batch)).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
        for p, required_grad in required.items():
            p.requires_grad_(required_grad)
    return {host: (sums[0][host], sums[1][host]) for host in hosts if host in sums[0] and host in sums[1]}


def agreed(halves: Halves, at_most: int) -> list[float]:
    """Return what each of the leading directions is worth on the half that it was not found on; never below zero, and
    in an order that does not rise.
    """
    worth = torch.zeros(min(at_most, *halves[0].shape))
    for found_OI, other_OI in (halves, halves[::-1]):
        u_OK, values_K, v_KI = torch.linalg.svd(found_OI, full_matrices=False)
        there_K = torch.einsum("ok,oi,ki->k", u_OK, other_OI, v_KI)
        worth += (values_K * there_K)[: len(worth)] / 2
    return worth.clamp(min=0).cummin(0).values.tolist()
