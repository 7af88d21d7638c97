"""The Pfeiffer bottleneck against forwards written by hand, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import inlay
from inlay.errors import SettingsError, TargetError

from ..shapes import SHAPES, Shape, disturb, logits


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def blocks_of(model: nn.Module, shape: Shape) -> list[Any]:
    """The blocks in the order in which the adapter's hosts are listed."""
    if shape.name == "t5":
        return [*model.encoder.block, *model.decoder.block]
    return {
        "llama": lambda: list(model.model.layers),
        "gpt2": lambda: list(model.transformer.h),
        "bert": lambda: list(model.bert.encoder.layer),
    }[shape.name]()


def by_hand(model: nn.Module, shape: Shape, changes: list[Any]) -> None:
    """Rewrite the end of each block: u is the sum (post-LN: its norm), and change(u) joins the sum."""
    for block, change in zip(blocks_of(model, shape), changes, strict=True):
        if shape.name == "bert":
            block.output.forward = _bert_output(block.output, change)
        elif shape.name == "llama":
            block.forward = _llama_layer(block, change)
        elif shape.name == "gpt2":
            block.forward = _gpt2_block(block, change)
        else:
            block.layer[-1].forward = _t5_feedforward(block.layer[-1], change)


def _bert_output(module: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        total = module.dense(hidden_states) + input_tensor
        return module.LayerNorm(total + change(module.LayerNorm(total)))

    return forward


def _llama_layer(block: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor, **more: Any) -> Tensor:
        h = hidden_states + block.self_attn(hidden_states=block.input_layernorm(hidden_states), **more)[0]
        u = h + block.mlp(block.post_attention_layernorm(h))
        return u + change(u)

    return forward


def _gpt2_block(block: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor, past_key_values: Any = None, *rest: Any, **more: Any) -> Any:
        mask = rest[1] if len(rest) > 1 else more.get("attention_mask")
        attended = block.attn(block.ln_1(hidden_states), past_key_values=past_key_values, attention_mask=mask)
        h = hidden_states + attended[0]
        u = h + block.mlp(block.ln_2(h))
        return u + change(u)

    return forward


def _t5_feedforward(layer: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor) -> Tensor:
        u = hidden_states + layer.DenseReluDense(layer.layer_norm(hidden_states))
        return u + change(u)

    return forward


def pairs(shape: Shape) -> tuple[Any, Any, inlay.Adapter, list[Any]]:
    """A model with the adapter, one without, and the adapter's deltas, everything in float64."""
    model, plain = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4), heads=())
    for p in adapter.parameters():
        p.data = p.data.double()
    return model, plain, adapter, list(adapter.deltas.values())


def test_a_constant_joins_the_sum_before_the_final_norm_or_after_the_block(shape: Shape) -> None:
    model, plain, _, deltas = pairs(shape)
    constants = []
    with torch.no_grad():
        for delta in deltas:
            delta.down.weight.zero_()
            delta.up.bias.normal_()
            constants.append(delta.up.bias.detach().clone())
    by_hand(plain, shape, [lambda u, c=c: c for c in constants])
    close(logits(model, shape, use_cache=False), logits(plain, shape, use_cache=False))


def test_output_and_gradients_equal_a_forward_written_by_hand(shape: Shape) -> None:
    model, plain, adapter, deltas = pairs(shape)
    disturb(adapter, 0.3)
    copies = [
        [p.detach().clone().requires_grad_() for p in (d.down.weight, d.down.bias, d.up.weight, d.up.bias)]
        for d in deltas
    ]

    def change(parts: list[Tensor]) -> Any:
        w1, b1, w2, b2 = parts
        return lambda u: (u @ w1.T + b1).clamp(min=0) @ w2.T + b2

    by_hand(plain, shape, [change(parts) for parts in copies])
    y, expected = logits(model, shape, use_cache=False), logits(plain, shape, use_cache=False)
    close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for delta, parts in zip(deltas, copies, strict=True):
        for p, copy in zip((delta.down.weight, delta.down.bias, delta.up.weight, delta.up.bias), parts, strict=True):
            close(p.grad, copy.grad, 1e-8)
            assert p.grad.abs().max() > 0


def test_the_start_is_the_base_bit_for_bit_where_the_block_ends(shape: Shape) -> None:
    model = shape.model()
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4))
    torch.testing.assert_close(logits(model, shape), before)
    for name, delta in adapter.deltas.items():
        if name not in adapter.heads:
            assert delta.down.weight.any()
            assert not any(p.any() for p in (delta.down.bias, delta.up.weight, delta.up.bias))
            assert delta.down.weight.std() < 0.05


def test_the_count_is_the_formula(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4), heads=())
    d, m, layers = 32, 8, 4 if shape.name == "t5" else 2
    assert sum(p.numel() for p in adapter.parameters()) == layers * (2 * m * d + m + d)


def test_the_count_in_bert_base_is_the_published_one() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adapter = inlay.attach(model, inlay.Pfeiffer())
    assert sum(p.numel() for p in adapter.parameters()) == 894_528  # a bottleneck of 768 / 16 = 48


@pytest.mark.parametrize(("factor", "width"), [(16, 2), (3, 11), (64, 1), (1000, 1), (0.5, 64)])
def test_the_bottleneck_is_the_width_divided_and_at_least_one(factor: float, width: int) -> None:
    adapter = inlay.attach(SHAPES["llama"].model(), inlay.Pfeiffer(reduction_factor=factor))
    assert {delta.down.out_features for delta in adapter.deltas.values()} == {width}


@pytest.mark.parametrize("factor", [0, -1.0])
def test_a_factor_that_is_not_positive_is_refused(factor: float) -> None:
    with pytest.raises(SettingsError, match=f"method.reduction_factor is {factor}; it must be above 0"):
        inlay.Pfeiffer(reduction_factor=factor)


def test_the_norm_that_runs_twice_is_frozen_and_unchanged() -> None:
    shape = SHAPES["bert"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4))
    disturb(adapter)
    norms = {n: p.clone() for n, p in model.named_parameters() if "LayerNorm" in n and "adapters" not in n}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    logits(model, shape).sum().backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert norms
    assert all(torch.equal(after[n], p) for n, p in norms.items())


def test_the_hidden_states_that_a_model_reports_are_the_adapted_ones(shape: Shape) -> None:
    model, plain, adapter, deltas = pairs(shape)
    disturb(adapter, 0.3)
    by_hand(plain, shape, [delta.change for delta in deltas])
    states = [each(**shape.inputs(), output_hidden_states=True, use_cache=False) for each in (model, plain)]
    for key in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        ours, theirs = (getattr(each, key, None) or () for each in states)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            close(a, b)
    assert any(getattr(states[0], key, None) for key in ("hidden_states", "encoder_hidden_states"))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(TargetError, match="Sequential has no transformer blocks"):
        inlay.attach(nn.Sequential(nn.Linear(3, 3)), inlay.Pfeiffer())
