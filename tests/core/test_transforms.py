"""torch.func on models with adapters gives what ordinary gradients give."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap

import inlay

from ..shapes import SHAPES, Shape, disturb, logits, method

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning", "ignore:.*torch.jit.script:DeprecationWarning"
)


# Attention takes its softmax in float32, whose rounding the tolerance allows for.
def adapted(name: str, shape: Shape) -> tuple[Any, dict[str, Tensor]]:
    model = copy.deepcopy(shape.model()).double()  # with a configuration of its own
    model.config._attn_implementation = "eager"  # torch's fused attention has no forward mode and no rule for vmap
    disturb(inlay.attach(model, method(name, shape)))
    model.double()
    return model, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", inlay.METHODS)
@pytest.mark.parametrize("shape", [SHAPES["llama"], SHAPES["bert"]], ids=lambda s: s.name)
def test_every_transform_gives_the_ordinary_gradient(name: str, shape: Shape) -> None:
    model, params = adapted(name, shape)
    inputs = shape.inputs()

    def loss(changed: dict[str, Tensor], **some: Tensor) -> Tensor:
        return functional_call(model, changed, (), some or inputs).logits.square().mean()

    logits(model, shape).square().mean().backward()
    expected = {n: model.get_parameter(n).grad for n in params}
    model.zero_grad()
    for transform in (grad, jacrev):
        torch.testing.assert_close(transform(loss)(params), expected, atol=1e-8, rtol=1e-6)

    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    found = torch.autograd.grad(loss(leaves), list(leaves.values()))
    torch.testing.assert_close(dict(zip(leaves, found, strict=True)), expected, atol=1e-8, rtol=1e-6)

    def of_row(changed: dict[str, Tensor], ids_T: Tensor) -> Tensor:
        return loss(changed, input_ids=ids_T[None])

    by_row = vmap(grad(of_row), in_dims=(None, 0))(params, inputs["input_ids"])
    torch.testing.assert_close({n: g.mean(0) for n, g in by_row.items()}, expected, atol=1e-8, rtol=1e-6)

    both = {n: torch.stack([p, 1.1 * p]) for n, p in params.items()}
    together = vmap(lambda changed: functional_call(model, changed, (), inputs).logits)(both)
    with torch.no_grad():
        alone = functional_call(model, {n: p[1] for n, p in both.items()}, (), inputs).logits
    torch.testing.assert_close(together[1], alone, atol=1e-8, rtol=1e-6)

    direction = {n: torch.ones_like(p) for n, p in params.items()}
    slope = sum((expected[n] * direction[n]).sum() for n in params)
    torch.testing.assert_close(jvp(loss, (params,), (direction,))[1], slope, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(  # nothing has been changed or kept
        logits(model, shape), functional_call(model, params, (), inputs).logits
    )
