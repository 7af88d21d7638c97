"""The parallel adapter against forwards written by hand, in float64."""

import copy
import math
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor

import inlay
from inlay.errors import SettingsError
from inlay.methods.additive.parallel import BesideInput

from ..core.test_architectures import ARCHITECTURES, every_architecture, run
from ..shapes import SHAPES, Shape, disturb, logits
from .test_bottleneck import blocks_of, close


def in_double(shape: Shape, **settings: Any) -> tuple[Any, Any, inlay.Adapter, dict[str, Any]]:
    model, plain = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.Parallel(reduction_factor=4, **settings), heads=())
    for p in adapter.parameters():
        p.data = p.data.double()
    return model, plain, adapter, {n: d for n, d in adapter.deltas.items() if isinstance(d, BesideInput)}


def by_hand(model: Any, shape: Shape, changes: list[Any], scale: float) -> None:
    """FFN(z) + scale * change(z), with z what the feed-forward reads."""
    for block, change in zip(blocks_of(model, shape), changes, strict=True):
        if shape.name == "bert":
            block.feed_forward_chunk = _bert_feedforward(block, change, scale)
        else:
            feedforward = block.layer[-1].DenseReluDense if shape.name == "t5" else block.mlp
            feedforward.forward = _beside(feedforward.forward, change, scale)


def _bert_feedforward(block: Any, change: Any, scale: float) -> Any:
    def chunk(z: Tensor) -> Tensor:
        out = block.output
        return out.LayerNorm(out.dense(block.intermediate(z)) + scale * change(z) + z)

    return chunk


def _beside(forward: Any, change: Any, scale: float) -> Any:
    return lambda z: forward(z) + scale * change(z)


@pytest.mark.parametrize("scale", [4.0, 0.5])
def test_output_and_gradients_equal_a_forward_written_by_hand(shape: Shape, scale: float) -> None:
    model, plain, adapter, deltas = in_double(shape, scale=scale)
    disturb(adapter, 0.3)
    copies = [
        [p.detach().clone().requires_grad_() for p in (d.down.weight, d.down.bias, d.up.weight, d.up.bias)]
        for d in deltas.values()
    ]

    def change(parts: list[Tensor]) -> Any:
        w1, b1, w2, b2 = parts
        return lambda z: (z @ w1.T + b1).clamp(min=0) @ w2.T + b2

    by_hand(plain, shape, [change(parts) for parts in copies], scale)
    y, expected = logits(model, shape, use_cache=False), logits(plain, shape, use_cache=False)
    close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for delta, parts in zip(deltas.values(), copies, strict=True):
        for p, own in zip((delta.down.weight, delta.down.bias, delta.up.weight, delta.up.bias), parts, strict=True):
            close(p.grad, own.grad, 1e-7)
            assert p.grad.abs().max() > 0


def test_the_start_is_the_base_and_only_the_up_projections_learn_at_first(shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.Parallel(), heads=())
    assert torch.equal(logits(model, shape), before)
    logits(model, shape).square().sum().backward()
    for n, p in adapter.named_parameters():
        assert (p.grad.abs().max() > 0) == (".up." in n or n.startswith("up.")), n
    for delta in adapter.deltas.values():
        if isinstance(delta, BesideInput):
            assert 0.9 / math.sqrt(32) < delta.down.weight.abs().max() <= 1 / math.sqrt(32)
            assert not any(p.any() for p in (delta.down.bias, delta.up.weight, delta.up.bias))


def test_the_count_is_the_formula(shape: Shape) -> None:
    adapter = inlay.attach(shape.model(), inlay.Parallel(reduction_factor=4), heads=())
    d, m, blocks = 32, 8, 4 if shape.name == "t5" else 2
    assert sum(p.numel() for p in adapter.parameters()) == blocks * (2 * m * d + m + d)


def test_the_paper_s_bottleneck_in_bart_large_is_512_wide() -> None:
    config = t.BartConfig()  # bart-large
    with torch.device("meta"):
        model = t.BartForConditionalGeneration(config)
    adapter = inlay.attach(model, inlay.Parallel())
    assert {d.down.out_features for d in adapter.deltas.values() if isinstance(d, BesideInput)} == {512}
    assert sum(p.numel() for p in adapter.parameters()) == 24 * (2 * 512 * 1024 + 512 + 1024)


@every_architecture
def test_it_starts_as_the_base_and_learns_in_every_architecture(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture][0]().eval()
    adapter = inlay.attach(model, inlay.Parallel(reduction_factor=4))
    seen = []
    end = list(adapter.deltas)[1]
    model.get_submodule(end).register_forward_hook(lambda _, args, result: seen.append(result))
    for _ in range(2):
        torch.manual_seed(1)
        run(model)
        disturb(adapter)
    count = len(seen) // 2  # albert runs its one block twice
    torch.manual_seed(1)
    run(model)
    assert not torch.allclose(seen[0], seen[count], atol=1e-3)


def test_nothing_of_the_activations_is_kept_after_a_call_even_without_gradients(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.Parallel())
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            logits(model, shape)
        assert all(d.x_BTD is None for d in adapter.deltas.values() if isinstance(d, BesideInput))
    twin = copy.deepcopy(model)
    first, second, *_ = inlay.adapters(twin)["default"].deltas.values()
    assert second.reader[0] is first


def test_the_bottleneck_is_stored_once() -> None:
    adapter = inlay.attach(SHAPES["llama"].model(), inlay.Parallel())
    assert not [n for n in adapter.model.state_dict() if "down_proj.adapters" in n]
    assert len(adapter.state_dict()) == 2 * 4


def test_a_factor_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SettingsError, match="method.reduction_factor is 0; it must be above 0"):
        inlay.Parallel(reduction_factor=0)
