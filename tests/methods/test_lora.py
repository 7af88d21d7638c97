"""LoRA against the papers' formulas, written out by hand, on every kind of host."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.methods.ranked import wide_note
from inlay.models import weights

from ..shapes import Shape, disturb


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def one(host: nn.Module, **settings: Any) -> tuple[nn.Module, inlay.Adapter, Any]:
    """A model of one host, its adapter and the delta."""
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.LoRA(targets=("0",), **settings))
    return model, adapter, adapter.deltas["0"]


def double(adapter: inlay.Adapter) -> None:
    """Put the factors in float64, to compare formulas rather than rounding."""
    for p in adapter.parameters():
        p.data = p.data.double()


# The formula


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "rank", "alpha"), [(7, 5, 3, 12.0), (4, 9, 1, 3.0), (6, 6, 8, 5.0)])
def test_a_linear_layer_computes_x_times_w_plus_s_b_a(
    inputs: int, outputs: int, rank: int, alpha: float, bias: bool, stabilized: bool
) -> None:
    host = nn.Linear(inputs, outputs, bias=bias).double()
    model, adapter, delta = one(host, rank=rank, alpha=alpha, rank_stabilized=stabilized)
    double(adapter)
    x_BTI = torch.randn(2, 3, inputs, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, outputs, dtype=torch.float64)
    scale = alpha / math.sqrt(rank) if stabilized else alpha / rank

    for disturbed in (False, True):
        if disturbed:
            disturb(adapter)
        y = model(x_BTI)
        gradients = torch.autograd.grad((y * target).sum(), (x_BTI, delta.lora_A, delta.lora_B))
        a, b = (p.detach().clone().requires_grad_() for p in (delta.lora_A, delta.lora_B))
        weight = host.weight + scale * (b @ a)
        expected = x_BTI @ weight.T + (host.bias if bias else 0)
        close(y, expected)
        for own, theirs in zip(gradients, torch.autograd.grad((expected * target).sum(), (x_BTI, a, b)), strict=True):
            close(own, theirs)
        # dL/dA = s B' dY' X and dL/dB = s dY' X A': the first is zero while B is
        close(gradients[1], scale * b.T @ torch.einsum("bto,bti->oi", target, x_BTI))
        assert (gradients[1].abs().max() == 0) == (not disturbed)
        assert gradients[2].abs().max() > 0
        assert delta.lora_A.shape == (rank, inputs)
        assert delta.lora_B.shape == (outputs, rank)


@pytest.mark.parametrize(
    ("rank", "alpha", "stabilized", "scale"),
    [(4, 16, False, 4.0), (4, 16, True, 8.0), (2, 8, True, 5.656854249), (1, 3, True, 3.0), (1, 3, False, 3.0)],
)
def test_the_scale_is_alpha_over_rank_or_over_its_root(rank: int, alpha: float, stabilized: bool, scale: float) -> None:
    _, _, delta = one(nn.Linear(6, 6), rank=rank, alpha=alpha, rank_stabilized=stabilized)
    assert delta.scale == pytest.approx(scale)


def test_a_start_is_uniform_within_one_over_the_root_of_the_inputs_and_b_is_zero() -> None:
    torch.manual_seed(0)
    _, _, delta = one(nn.Linear(400, 30), rank=50)
    bound = 1 / math.sqrt(400)
    assert delta.lora_A.abs().max() <= bound
    assert delta.lora_A.abs().max() > 0.99 * bound
    close(delta.lora_A.std(), torch.tensor(bound / math.sqrt(3)), 2e-3)
    close(delta.lora_A.mean(), torch.tensor(0.0), 2e-3)
    assert not delta.lora_B.any()
    _, _, other = one(nn.Linear(400, 30), rank=50)
    assert not torch.equal(delta.lora_A, other.lora_A)


def test_an_embedding_starts_with_a_zero_and_b_normal_and_a_convolution_as_a_linear_layer() -> None:
    torch.manual_seed(0)
    _, _, embedding = one(nn.Embedding(50, 400), rank=30)
    assert not embedding.lora_embedding_A.any()
    close(embedding.lora_embedding_B.std(), torch.tensor(1.0), 0.03)
    _, _, convolution = one(nn.Conv2d(16, 8, 5), rank=20)
    assert convolution.lora_A.abs().max() <= 1 / math.sqrt(16 * 25)
    assert convolution.lora_A.abs().max() > 0.99 / math.sqrt(16 * 25)
    assert not convolution.lora_B.any()


def test_the_count_is_the_sum_of_rank_times_inputs_plus_outputs() -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(10):
        *sizes, rank = torch.randint(1, 40, (5,), generator=generator).tolist()
        model = nn.Sequential(*(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)))
        adapter = inlay.attach(model, inlay.LoRA(rank=rank))
        expected = sum(rank * (i + o) for i, o in zip(sizes, sizes[1:], strict=False))
        assert sum(p.numel() for p in adapter.parameters()) == expected


def test_the_count_on_a_model_is_the_formula(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=3), heads=())
    expected = sum(3 * sum(weights.size(host)) for _, host, _ in adapter.hosts())
    assert sum(p.numel() for p in adapter.parameters()) == expected
    if shape.name == "llama":  # q and o: 32 to 32, k and v: 32 to 16, three of the feed-forward: 32 to 48
        assert expected == 2 * 3 * (2 * 64 + 2 * 48 + 3 * 80)


# Dropout


def test_dropout_falls_on_the_adapter_s_input_in_training_only() -> None:
    host = nn.Linear(8, 8)
    model, _, delta = one(host, rank=8, alpha=8, dropout=0.25)
    x = torch.rand(500, 8) + 0.5
    plain = F.linear(x, host.weight, host.bias)
    assert torch.equal(model.train()(x), plain)  # B is zero: what is dropped is not the base's input
    delta.lora_A.data = torch.eye(8)
    delta.lora_B.data = torch.eye(8)
    change = model.train()(x) - plain
    kept = change.abs() > 1e-4
    close(change[kept], (x / 0.75)[kept], 1e-4)
    assert 0.70 < kept.float().mean() < 0.80
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    close(model(x), plain + x, 1e-5)


def test_dropout_leaves_the_expected_output_as_it_is() -> None:
    torch.manual_seed(0)
    model, adapter, _ = one(nn.Linear(6, 4), rank=2, dropout=0.5)
    disturb(adapter)
    x = torch.randn(1, 6).expand(40000, 6)
    expected = model.eval()(x[:1])[0]
    close(model.train()(x).mean(0), expected, 0.05)


def test_an_adapter_follows_the_mode_of_its_host_from_the_start() -> None:
    model = nn.Sequential(nn.Linear(6, 6)).eval()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, dropout=0.9))
    disturb(adapter)
    x = torch.randn(3, 6)
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_dropout_takes_effect_in_a_convolution_too(padding_mode: str) -> None:
    model, adapter, _ = one(nn.Conv1d(3, 4, 3, padding=1, padding_mode=padding_mode), rank=2, dropout=0.5)
    disturb(adapter)
    x = torch.randn(2, 3, 9)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


# Patterns


def ranks(**settings: Any) -> dict[str, tuple[int, float]]:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(4, 4)
            self.up_proj = nn.Linear(4, 4)

    model = nn.ModuleDict({"layers": nn.ModuleList(Block() for _ in range(12))})
    adapter = inlay.attach(model, inlay.LoRA(rank=4, alpha=8, **settings))
    return {name: (len(delta.lora_A), delta.scale) for name, _, delta in adapter.hosts()}


def test_a_pattern_fits_the_end_of_a_name_and_the_first_that_fits_counts() -> None:
    found = ranks(rank_pattern={r"layers\.3\.q_proj": 3, "q_proj": 2}, alpha_pattern={"up_proj": 2, ".*proj": 5})
    assert {found[f"layers.{i}.q_proj"][0] for i in range(12) if i != 3} == {2}
    assert found["layers.3.q_proj"] == (3, 5 / 3)
    assert {found[f"layers.{i}.up_proj"] for i in range(12)} == {(4, 0.5)}


@pytest.mark.parametrize(("pattern", "hit"), [("layers.1.q_proj", 1), ("layers.0.q_proj", 0), ("^layers.1.q_proj", 1)])
def test_a_pattern_with_a_layer_s_number_does_not_hit_a_longer_number(pattern: str, hit: int) -> None:
    assert {name for name, (rank, _) in ranks(rank_pattern={pattern: 1}).items() if rank == 1} == {
        f"layers.{hit}.q_proj"
    }


@pytest.mark.parametrize("pattern", ["proj", "1.q_proj.weight", "q", "^q_proj", "layers.12.q_proj"])
def test_a_pattern_that_fits_no_module_is_refused(pattern: str) -> None:
    for field in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(TargetError, match="fits none of the 24 modules that targets selects"):
            ranks(**{field: {pattern: 2}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "method.rank is 0; it must be at least 1"),
        ({"rank_pattern": {"q_proj": -1}}, "method.rank_pattern of 'q_proj' is -1; it must be at least 1"),
        ({"dropout": 1.0}, "method.dropout is 1.0"),
        ({"dropout": -0.1}, "method.dropout is -0.1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.LoRA(**settings)


def test_one_target_need_not_be_in_a_list() -> None:
    assert inlay.LoRA(targets="attention") == inlay.LoRA(targets=("attention",))  # type: ignore[arg-type]


def test_a_rank_beyond_the_layers_is_noted() -> None:
    hosts = [nn.Linear(32, 48), nn.Linear(64, 64), nn.Embedding(8, 4)]
    note = wide_note(inlay.LoRA(rank=33), hosts)
    assert note is not None
    assert note.startswith("rank 33 is more than 1 layer can use, whose changes have rank 32 at most")
    assert wide_note(inlay.LoRA(rank=32), hosts) is None
    assert wide_note(inlay.VeRA(), hosts) is None  # its rank is of matrices that are not trained
