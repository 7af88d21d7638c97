"""Houlsby's adapters against forwards written by hand, in float64: where they sit, what they compute and train."""

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.methods.additive.bottleneck import AfterHost
from inlay.models import weights
from inlay.models.modules import is_norm
from inlay.models.sites import Sites

from ..core.test_architectures import ARCHITECTURES, SMALL, every_architecture, run
from ..shapes import SHAPES, Shape, disturb, logits
from .test_bottleneck import blocks_of, close


def in_double(shape: Shape, **settings: Any) -> tuple[Any, Any, inlay.Adapter, dict[str, Any]]:
    """A model with the adapter, one without, and the bottlenecks by host, everything in float64."""
    model, plain = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.Houlsby(size=8, **settings), heads=())
    for p in adapter.parameters():
        p.data = p.data.double()
    return model, plain, adapter, {n: d for n, d in adapter.deltas.items() if isinstance(d, AfterHost)}


def by_hand(model: nn.Module, shape: Shape, attention: list[Any], feedforward: list[Any]) -> None:
    """Rewrite each block: what a sub-layer gives, y, becomes y + change(y) before the residual and any norm."""
    for block, after_attention, after_feedforward in zip(blocks_of(model, shape), attention, feedforward, strict=True):
        if shape.name == "bert":
            block.attention.output.forward = _bert_output(block.attention.output, after_attention)
            block.output.forward = _bert_output(block.output, after_feedforward)
        elif shape.name == "t5":
            block.layer[0].SelfAttention.forward = _first(block.layer[0].SelfAttention.forward, after_attention)
            block.layer[-1].forward = _t5_feedforward(block.layer[-1], after_feedforward)
        else:
            own = {"llama": ("self_attn", "mlp"), "gpt2": ("attn", "mlp")}[shape.name]
            for name, change in zip(own, (after_attention, after_feedforward), strict=True):
                sub = getattr(block, name)
                sub.forward = _first(sub.forward, change)


def _bert_output(module: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        y = module.dense(hidden_states)
        return module.LayerNorm(y + change(y) + input_tensor)

    return forward


def _t5_feedforward(layer: Any, change: Any) -> Any:
    def forward(hidden_states: Tensor) -> Tensor:
        y = layer.DenseReluDense(layer.layer_norm(hidden_states))
        return hidden_states + y + change(y)

    return forward


def _first(forward: Any, change: Any) -> Any:
    def changed(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        y = result[0] if isinstance(result, tuple) else result
        y = y + change(y)
        return (y, *result[1:]) if isinstance(result, tuple) else y

    return changed


def halves(deltas: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    in_order = list(deltas.values())
    return in_order[: len(in_order) // 2], in_order[len(in_order) // 2 :]


def test_a_constant_joins_the_sum_before_the_residual_and_the_norm(shape: Shape) -> None:
    model, plain, _, deltas = in_double(shape)
    with torch.no_grad():
        for delta in deltas.values():
            delta.up.bias.normal_()
    constants = {n: d.up.bias.detach().clone() for n, d in deltas.items()}
    by_hand(plain, shape, *([lambda y, c=c: c for c in half] for half in halves(constants)))
    close(logits(model, shape, use_cache=False), logits(plain, shape, use_cache=False))


def test_output_and_gradients_equal_a_forward_written_by_hand(shape: Shape) -> None:
    model, plain, adapter, deltas = in_double(shape)
    disturb(adapter, 0.3)
    own = dict(plain.named_parameters())
    with torch.no_grad():
        for n, tensor in adapter.state_dict().items():
            if n in own:
                own[n].copy_(tensor)  # the norms
    copies = {
        n: [p.detach().clone().requires_grad_() for p in (d.down.weight, d.down.bias, d.up.weight, d.up.bias)]
        for n, d in deltas.items()
    }

    def change(parts: list[Tensor]) -> Any:
        w1, b1, w2, b2 = parts
        return lambda y: F.gelu(y @ w1.T + b1) @ w2.T + b2

    by_hand(plain, shape, *([change(parts) for parts in half] for half in halves(copies)))
    y, expected = logits(model, shape, use_cache=False), logits(plain, shape, use_cache=False)
    close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for n, delta in deltas.items():
        parts = (delta.down.weight, delta.down.bias, delta.up.weight, delta.up.bias)
        for p, copy in zip(parts, copies[n], strict=True):
            close(p.grad, copy.grad, 1e-8)
            assert p.grad.abs().max() > 0
    for n, p in adapter.named_parameters():
        if n in own:
            close(p.grad, own[n].grad, 1e-8)


def test_the_start_is_the_base_and_only_the_up_projections_and_the_norms_learn_at_first(shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.Houlsby(size=16), heads=())
    assert torch.equal(logits(model, shape), before)
    logits(model, shape).square().sum().backward()
    for n, p in adapter.named_parameters():
        assert (p.grad.abs().max() > 0) == (".down." not in n), n
    down = torch.cat([d.down.weight.flatten() for d in adapter.deltas.values() if isinstance(d, AfterHost)])
    assert 0.008 < down.std() < 0.012


@pytest.mark.parametrize("train_norms", [True, False])
def test_the_count_is_the_formula(shape: Shape, train_norms: bool) -> None:
    """2 (2 m d + m + d) for each block, and each norm's parameters."""
    model = shape.model()
    norms = sum(p.numel() for m in model.modules() if is_norm(m) for p in m.parameters())
    adapter = inlay.attach(model, inlay.Houlsby(size=8, train_norms=train_norms), heads=())
    d, m, blocks = 32, 8, 4 if shape.name == "t5" else 2
    count = sum(p.numel() for p in adapter.parameters())
    assert count == blocks * 2 * (2 * m * d + m + d) + (norms if train_norms else 0)


def test_the_count_in_bert_large_is_the_published_one() -> None:
    config = t.BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    with torch.device("meta"):
        model = t.BertModel(config)
    adapter = inlay.attach(model, inlay.Houlsby(train_norms=False))
    assert sum(p.numel() for p in adapter.parameters()) == 6_343_680


def test_everything_but_the_adapters_and_the_norms_is_frozen(shape: Shape) -> None:
    model = shape.model()
    names = [n for n, _ in model.named_parameters()]
    adapter = inlay.attach(model, inlay.Houlsby(size=8), heads=())
    trained = {n for n, _ in adapter.named_parameters() if n in names}
    assert trained == {n for n in names if "norm" in n.lower() or ".ln_" in n}


def test_a_model_without_trainable_norms_needs_the_setting() -> None:
    model = t.OlmoForCausalLM(t.OlmoConfig(**SMALL))
    with pytest.raises(TargetError, match="targets 'norms' match no module of OlmoForCausalLM"):
        inlay.attach(model, inlay.Houlsby())
    assert len(inlay.attach(model, inlay.Houlsby(train_norms=False)).deltas) == 4


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="method.size is 0; it must be at least 1"):
        inlay.Houlsby(size=0)


# Where attention and feed-forward end, in every architecture


@every_architecture
def test_the_ends_are_the_layers_that_run_last(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture][0]().eval()
    sites = Sites(model)
    ran: dict[str, Tensor] = {}  # the input of each linear layer, in the order of the calls

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: Any) -> None:
            ran.setdefault(name, args[0])

        return hook

    for name, m in sites.modules():
        if weights.is_linear(m):
            m.register_forward_pre_hook(watch(name))
    run(model)
    order = list(ran)
    ends = [end for _, end in sites.sublayer_ends()]
    for attention_end, (block, start, end) in zip(ends, sites.feedforwards(), strict=False):
        own = sites.parts[block]
        attention = sorted((f"{block}.{n}" for n in own.attention[0]), key=order.index)
        feedforward = sorted((f"{block}.{n}" for n in own.feedforward), key=order.index)
        assert end in ends
        assert attention_end == attention[-1]
        assert end == feedforward[-1]
        assert start != end
        assert ran[start].shape == ran[feedforward[0]].shape
        assert torch.equal(ran[start], ran[feedforward[0]])  # a gate and what it opens read the same


def test_a_model_without_blocks_is_refused() -> None:
    for method in (inlay.Houlsby(), inlay.Parallel()):
        with pytest.raises(TargetError, match="Sequential has no transformer blocks"):
            inlay.attach(nn.Sequential(nn.Linear(3, 3)), method)


def test_cross_attention_has_no_adapter() -> None:
    adapter = inlay.attach(SHAPES["t5"].model(), inlay.Houlsby(size=8))
    assert not [n for n, d in adapter.deltas.items() if "EncDecAttention" in n and isinstance(d, AfterHost)]
