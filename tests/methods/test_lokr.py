"""LoKr against the Kronecker product of the papers, formed in full."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import inlay
from inlay.errors import SettingsError
from inlay.methods.reparameterized.lokr import split
from inlay.models import weights

from ..shapes import Shape, disturb
from .one_host import close, equals_the_formula, linear, one, parameters_with_gradient


def formula(weight_OI: Tensor, p: dict[str, Tensor], scale: float) -> Tensor:
    first_LM = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    second_KN = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
    blocks = [[entry * second_KN for entry in row] for row in first_LM]  # the definition of a Kronecker product
    return weight_OI + scale * torch.cat([torch.cat(row, dim=1) for row in blocks])


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "settings", "shapes"),
    [
        (24, 16, {"rank": 1}, {"w1": (4, 4), "w2_a": (4, 1), "w2_b": (1, 6)}),
        (24, 16, {"rank": 3}, {"w1": (4, 4), "w2": (4, 6)}),
        (24, 16, {"rank": 1, "decompose_both": True}, {"w1_a": (4, 1), "w1_b": (1, 4), "w2_a": (4, 1), "w2_b": (1, 6)}),
        (24, 16, {"rank": 2, "decompose_both": True}, {"w1": (4, 4), "w2_a": (4, 2), "w2_b": (2, 6)}),
        (24, 16, {"rank": 2, "factor": 2}, {"w1": (2, 2), "w2_a": (8, 2), "w2_b": (2, 12)}),
        (24, 16, {"rank": 2, "factor": 5}, {"w1": (4, 4), "w2_a": (4, 2), "w2_b": (2, 6)}),
        (7, 13, {"rank": 2}, {"w1": (1, 1), "w2_a": (13, 2), "w2_b": (2, 7)}),  # primes: LoRA times a number
        (40, 12, {"rank": 9, "factor": 8}, {"w1": (3, 8), "w2": (4, 5)}),
    ],
)
def test_it_adds_a_kronecker_product(
    inputs: int, outputs: int, settings: dict[str, Any], shapes: dict[str, tuple[int, int]], kind: str
) -> None:
    delta = equals_the_formula(
        linear(inputs, outputs, kind),
        inlay.LoKr(alpha=6, **settings),
        lambda w, p: formula(w, p, 6 / settings["rank"]),
    )
    assert {n.removeprefix("lokr_"): tuple(p.shape) for n, p in delta.named_parameters()} == shapes


@pytest.mark.parametrize(
    ("size", "factor", "parts"),
    [
        (256, -1, (16, 16)),
        (128, -1, (8, 16)),
        (127, -1, (1, 127)),
        (1, -1, (1, 1)),
        (768, -1, (24, 32)),
        (128, 4, (4, 32)),
        (128, 64, (64, 2)),  # a divisor comes first even if it is the greater
        (100, 8, (5, 20)),
        (100, 60, (10, 10)),
        (9, 2, (1, 9)),
    ],
)
def test_a_size_is_split_at_its_root_or_at_the_factor(size: int, factor: int, parts: tuple[int, int]) -> None:
    assert split(size, factor) == parts


def test_sizes_are_split_as_in_peft() -> None:
    layer = pytest.importorskip("peft.tuners.lokr.layer")
    for size in range(1, 300):
        for factor in (-1, *range(1, 30), 64, 300):
            assert split(size, factor) == layer.factorization(size, factor)


def test_it_starts_as_the_base_and_only_the_zero_factor_learns_first() -> None:
    torch.manual_seed(0)
    for both, zero in ((False, "lokr_w1"), (True, "lokr_w1_a")):
        model, adapter, delta = one(nn.Linear(2500, 1600), inlay.LoKr(rank=4, decompose_both=both))
        uniform = {"lokr_w2_a": 4, "lokr_w2_b": 50} | ({"lokr_w1_b": 50} if both else {})
        for name, p in delta.named_parameters():
            if name == zero:
                assert not p.any()
            else:
                bound = 1 / math.sqrt(uniform.pop(name))
                assert 0.9 * bound < p.abs().max() <= bound
                close(p.std(), torch.tensor(bound / math.sqrt(3)), 0.15 * bound)
        assert not uniform
        x = torch.randn(3, 2500)
        assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
        assert parameters_with_gradient(model, adapter, 2500) == {zero}


def test_the_count_is_that_of_the_factors(shape: Shape) -> None:
    adapter = inlay.attach(shape.model(), inlay.LoKr(rank=1), heads=())
    expected = 0
    for _, host, _ in adapter.hosts():
        (rows_1, rows_2), (columns_1, columns_2) = (split(size) for size in weights.size(host))
        expected += rows_1 * columns_1 + rows_2 + columns_2
    assert sum(p.numel() for p in adapter.parameters()) == expected
    if shape.name == "llama":  # 32 = 4*8, 16 = 4*4, 48 = 6*8: q and o, k and v, gate and up, down
        assert expected == 2 * (2 * (16 + 16) + 2 * (16 + 12) + 2 * (24 + 16) + (24 + 16))


@pytest.mark.parametrize(("rank", "share"), [(2, 0.06), (16, 0.14)])
def test_the_product_is_never_formed(rank: int, share: float) -> None:
    """PEFT forms it and multiplies by it: 2.0 times the base's work forward, 3.0 backward (its audit, 256 by 256)."""
    model, adapter, _ = one(nn.Linear(256, 256), inlay.LoKr(rank=rank))
    x = torch.randn(512, 256, requires_grad=True)
    base = 2 * 512 * 256 * 256
    with FlopCounterMode(display=False) as counter:
        y = model(x)
    assert counter.get_total_flops() <= (1 + share) * base
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() <= (1 + 2 * share) * base


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_in_bfloat16_it_computes_nearly_the_same(kind: str) -> None:
    torch.manual_seed(0)
    host = linear(64, 48, kind).float()
    model, adapter, delta = one(host, inlay.LoKr(rank=2))
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


def test_dropout_takes_effect_in_training_only() -> None:
    for settings in ({"dropout": 0.5}, {"module_dropout": 0.5}):
        torch.manual_seed(0)
        model, adapter, _ = one(nn.Linear(30, 40), inlay.LoKr(rank=2, **settings))
        disturb(adapter, 0.5)
        x = torch.randn(2, 30)
        seen = [model.train()(x) for _ in range(10)]
        assert any(not torch.equal(seen[0], y) for y in seen)
        assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "method.rank is 0; it must be at least 1"),
        ({"factor": 0}, "method.factor is 0; it must be at least 1, or -1 for the root"),
        ({"factor": -2}, "method.factor is -2"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.LoKr(**settings)
