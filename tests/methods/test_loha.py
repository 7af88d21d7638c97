"""LoHa against FedPara's formula, written out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.models import weights

from ..shapes import SHAPES, Shape, disturb
from .one_host import close, equals_the_formula, linear, one, parameters_with_gradient


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "rank", "thin"), [(40, 30, 2, True), (30, 40, 4, True), (7, 5, 3, False), (12, 12, 1, True)]
)
def test_it_adds_the_elementwise_product_of_two_products(
    inputs: int, outputs: int, rank: int, thin: bool, kind: str
) -> None:
    delta = equals_the_formula(
        linear(inputs, outputs, kind),
        inlay.LoHa(rank=rank, alpha=6),
        lambda w, p: w + 6 / rank * (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"]),
    )
    assert delta.is_thin == thin
    assert [tuple(p.shape) for p in delta.parameters()] == [(outputs, rank), (rank, inputs)] * 2


def test_the_change_has_up_to_the_squared_rank() -> None:
    torch.manual_seed(0)
    model, adapter, delta = one(nn.Linear(40, 30), inlay.LoHa(rank=4))
    disturb(adapter, 1.0)
    assert torch.linalg.matrix_rank(delta.change()) == 16


def test_with_a_second_product_of_ones_it_is_lora() -> None:
    _, adapter, delta = one(nn.Linear(20, 30), inlay.LoHa(rank=2, alpha=5))
    disturb(adapter)
    delta.hada_w2_a.data[:] = torch.tensor([1.0, 0.0])
    delta.hada_w2_b.data[:] = 1
    close(delta.change(), 5 / 2 * delta.hada_w1_a @ delta.hada_w1_b, 1e-6)


def test_it_starts_as_the_base_with_one_factor_zero_and_only_that_one_learns_first() -> None:
    torch.manual_seed(0)
    model, adapter, delta = one(nn.Linear(400, 300), inlay.LoHa(rank=4))
    for name, bound in (("hada_w1_a", 1 / 2), ("hada_w1_b", 1 / 20), ("hada_w2_a", 1 / 2)):
        factor = getattr(delta, name)
        assert 0.98 * bound < factor.abs().max() <= bound
        close(factor.std(), torch.tensor(bound / math.sqrt(3)), 0.05 * bound)
    assert not delta.hada_w2_b.any()
    x = torch.randn(3, 400)
    assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    assert parameters_with_gradient(model, adapter, 400) == {"hada_w2_b"}


def test_the_count_is_twice_rank_times_inputs_and_outputs(shape: Shape) -> None:
    adapter = inlay.attach(shape.model(), inlay.LoHa(rank=3), heads=())
    expected = sum(2 * 3 * sum(weights.size(host)) for _, host, _ in adapter.hosts())
    assert sum(p.numel() for p in adapter.parameters()) == expected


def test_the_change_is_applied_without_forming_it() -> None:
    """PEFT forms the (O, I) change and multiplies by it: 2.03 times the base's work."""
    model, adapter, _ = one(nn.Linear(256, 256), inlay.LoHa(rank=4))
    x = torch.randn(512, 256)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() <= 1.13 * 2 * 512 * 256 * 256


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_in_bfloat16_it_computes_nearly_the_same(kind: str) -> None:
    torch.manual_seed(0)
    host = linear(64, 48, kind).float()
    model, adapter, delta = one(host, inlay.LoHa(rank=3))
    disturb(adapter, 0.3)
    x = torch.randn(20, 64)
    expected = model(x)
    factors = {n: p.clone() for n, p in delta.named_parameters()}
    host.to(torch.bfloat16)
    for n, p in delta.named_parameters():
        p.data = factors[n]
    y = model(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.01 * expected.norm()


def test_dropout_drops_features_of_the_change_in_training_and_keeps_its_mean() -> None:
    torch.manual_seed(0)
    model, adapter, _ = one(nn.Linear(20, 2000), inlay.LoHa(rank=2, dropout=0.3))
    disturb(adapter, 0.5)
    x = torch.randn(2, 20)
    base = nn.functional.linear(x, model[0].weight, model[0].bias)
    whole = model.eval()(x) - base
    change = model.train()(x) - base
    dropped = (change.abs() < 1e-6).all(0)
    assert 0.25 < dropped.float().mean() < 0.35
    close(change[:, ~dropped], (whole / 0.7)[:, ~dropped], 1e-4)
    assert torch.equal(model.eval()(x), model(x))


def test_module_dropout_drops_the_whole_change_of_a_step() -> None:
    torch.manual_seed(0)
    model, adapter, _ = one(nn.Linear(20, 10), inlay.LoHa(rank=2, module_dropout=0.25))
    disturb(adapter, 0.5)
    x = torch.randn(2, 20)
    base = nn.functional.linear(x, model[0].weight, model[0].bias)
    whole = model.eval()(x)
    seen = [model.train()(x) for _ in range(200)]
    assert all(torch.equal(y, base) or torch.equal(y, whole) for y in seen)
    assert 30 < sum(torch.equal(y, base) for y in seen) < 70


def test_patterns_give_modules_their_own_rank_and_alpha() -> None:
    adapter = inlay.attach(
        SHAPES["llama"].model(), inlay.LoHa(rank=4, alpha=8, rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 1})
    )
    found = {name.rpartition(".")[2]: (d.hada_w1_b.shape[0], d.scale) for name, _, d in adapter.hosts()}
    assert (found["q_proj"], found["v_proj"], found["o_proj"]) == ((4, 0.25), (2, 4.0), (4, 2.0))
    with pytest.raises(TargetError, match="pattern 'nothing' fits none of the 14 modules"):
        inlay.attach(SHAPES["llama"].model(), inlay.LoHa(rank_pattern={"nothing": 2}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "method.rank is 0; it must be at least 1"),
        ({"rank_pattern": {"q": 0}}, "method.rank_pattern of 'q' is 0; it must be at least 1"),
        ({"dropout": 1.0}, r"method.dropout is 1.0; it must be at least 0 and below 1"),
        ({"module_dropout": -0.5}, r"method.module_dropout is -0.5"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.LoHa(**settings)


def test_an_embedding_is_refused() -> None:
    with pytest.raises(TargetError, match="matches only Embedding, which this method cannot adapt"):
        inlay.attach(SHAPES["bert"].model(), inlay.LoHa(targets=("word_embeddings",)))
