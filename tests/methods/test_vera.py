"""VeRA against the paper's formula, and its shared matrices: one pair, frozen, drawn from a seed."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import inlay
from inlay.errors import CheckpointError, SettingsError
from inlay.models import weights

from ..shapes import SHAPES, Shape, disturb, logits
from .one_host import close, equals_the_formula, linear, one, parameters_with_gradient


def drawn(rank: int, inputs: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A and B as the paper and PEFT have them: Kaiming uniform for a ReLU, A first."""
    generator = torch.Generator().manual_seed(seed)
    a_RI = nn.init.kaiming_uniform_(torch.empty(rank, inputs), nonlinearity="relu", generator=generator)
    return a_RI, nn.init.kaiming_uniform_(torch.empty(outputs, rank), nonlinearity="relu", generator=generator)


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
@pytest.mark.parametrize(("inputs", "outputs", "rank", "seed"), [(7, 5, 3, 0), (5, 9, 20, 3)])
def test_it_scales_a_random_low_rank_change(inputs: int, outputs: int, rank: int, seed: int, kind: str) -> None:
    a_RI, b_OR = (t.double() for t in drawn(rank, inputs, outputs, seed))
    equals_the_formula(
        linear(inputs, outputs, kind),
        inlay.VeRA(rank=rank, seed=seed),
        lambda w, p: w + torch.diag(p["vera_lambda_b"]) @ b_OR @ torch.diag(p["vera_lambda_d"]) @ a_RI,
    )


def test_it_starts_as_the_base_and_only_the_outer_vector_learns_first() -> None:
    model, adapter, delta = one(nn.Linear(6, 4), inlay.VeRA(rank=5, d_initial=0.01))
    assert torch.equal(delta.vera_lambda_d, torch.full((5,), 0.01))
    assert not delta.vera_lambda_b.any()
    x = torch.randn(3, 6)
    assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    assert parameters_with_gradient(model, adapter, 6) == {"vera_lambda_b"}


def test_the_count_is_rank_plus_outputs_per_layer_and_the_matrices_are_not_trained(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.VeRA(rank=11), heads=())
    assert sum(p.numel() for p in adapter.parameters()) == sum(11 + weights.size(h)[0] for _, h, _ in adapter.hosts())
    disturb(adapter)
    logits(model, shape).square().sum().backward()
    shared = next(d for _, _, d in adapter.hosts()).shared
    assert not shared.vera_A.requires_grad
    assert not shared.vera_B.requires_grad


def test_layers_of_all_sizes_share_one_pair_and_use_a_part_of_it() -> None:
    shape = SHAPES["llama"]  # 32 or 48 inputs, 32, 16 or 48 outputs
    adapter = inlay.attach(shape.model(), inlay.VeRA(rank=7))
    a_RI, b_OR = drawn(7, 48, 48)
    (shared,) = {d.shared for _, _, d in adapter.hosts()}
    assert torch.equal(shared.vera_A, a_RI)
    assert torch.equal(shared.vera_B, b_OR)
    disturb(adapter)
    for _, host, delta in adapter.hosts():
        outputs, inputs = weights.size(host)
        x = torch.randn(2, inputs)
        h = host.forward(x)
        change = ((x @ a_RI[:, :inputs].T) * delta.vera_lambda_d) @ b_OR[:outputs].T * delta.vera_lambda_b
        close(host(x), h + change, 1e-5)


def test_the_pair_stays_one_when_the_model_moves_is_cast_or_copied() -> None:
    shape = SHAPES["bert"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.VeRA(rank=3))
    disturb(adapter)

    def storages(of: Any) -> set[int]:
        return {b.data_ptr() for n, b in of.named_buffers(remove_duplicate=False) if "vera_" in n}

    assert len(storages(model)) == 2
    expected = logits(model, shape)
    twin = copy.deepcopy(model)
    assert len(storages(twin)) == 2
    assert not storages(twin) & storages(model)
    model.to(torch.float64)
    assert len(storages(model)) == 2
    close(logits(model, shape).float(), expected, 1e-5)
    model.to("meta")
    assert len({id(d.shared.vera_A) for _, _, d in adapter.hosts() if hasattr(d, "shared")}) == 1


def test_the_pair_has_the_base_s_dtype_so_that_no_call_copies_it() -> None:
    shape = SHAPES["llama"]
    adapter = inlay.attach(shape.model(torch.bfloat16), inlay.VeRA(rank=5))
    for _, host, delta in adapter.hosts():
        assert delta.shared.vera_A.dtype == torch.bfloat16
        assert delta.vera_lambda_b.dtype == delta.vera_lambda_d.dtype == torch.float32
        x = torch.zeros(1, weights.size(host)[1], dtype=torch.bfloat16)
        a_RI, b_OR = delta.projections(x)
        assert a_RI.data_ptr() == delta.shared.vera_A.data_ptr()
        assert b_OR.data_ptr() == delta.shared.vera_B.data_ptr()


def test_another_seed_draws_another_pair_and_the_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    pairs = []
    for seed in (0, 0, 5):
        host = nn.Linear(6, 4)
        torch.manual_seed(1)
        _, _, delta = one(host, inlay.VeRA(rank=4, seed=seed))
        assert torch.equal(torch.rand(1), expected)
        pairs.append((delta.shared.vera_A, delta.shared.vera_B))
    assert all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(pairs[0], pairs[2], strict=True))


@pytest.mark.parametrize("save_projection", [True, False])
def test_saved_with_or_without_the_pair_it_computes_the_same(
    save_projection: bool, shape: Shape, tmp_path: Any
) -> None:
    model, again = shape.classifier(), shape.classifier()
    method = inlay.VeRA(rank=5, seed=3, save_projection=save_projection)
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(tmp_path)
    keys = [key for key in adapter.state_dict() if "vera_A" in key or "vera_B" in key]
    assert len(keys) == (2 if save_projection else 0)
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))


def test_a_pair_that_is_no_longer_the_seed_s_is_read_from_the_file(tmp_path: Any) -> None:
    """As another version of torch might draw it."""
    shape = SHAPES["gpt2"]
    model, again = shape.model(), shape.model()
    adapter = inlay.attach(model, inlay.VeRA(rank=5))
    disturb(adapter)
    shared = next(iter(adapter.deltas.values())).shared
    shared.vera_A += 0.5  # type: ignore[attr-defined]
    shared.vera_B += 0.5  # type: ignore[attr-defined]
    adapter.save(tmp_path)
    inlay.load(again, tmp_path)
    close(logits(again, shape), logits(model, shape), 0)
    model = shape.model()
    state = {k: t for k, t in inlay.adapters(again)["default"].state_dict().items() if "vera_A" not in k}
    with pytest.raises(CheckpointError, match=r"vera_A is missing"):
        inlay.attach(model, inlay.VeRA(rank=5)).load_state_dict(state)


def test_dropout_falls_on_the_adapter_s_input_in_training_only() -> None:
    torch.manual_seed(0)
    model, adapter, delta = one(nn.Linear(50, 30), inlay.VeRA(rank=8, dropout=0.5))
    disturb(adapter)
    x = torch.randn(1, 50)
    assert torch.equal(model.eval()(x), model(x))
    expected = model(x)[0]
    assert not torch.equal(model.train()(x), model(x))
    close(model(x.expand(40000, 50)).mean(0), expected, 0.02)


def test_its_work_is_that_of_two_thin_products() -> None:
    model, adapter, _ = one(nn.Linear(256, 256), inlay.VeRA(rank=64))
    x = torch.randn(512, 256)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * 512 * (256 * 256 + 2 * 64 * 256)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_in_bfloat16_it_computes_nearly_the_same(kind: str) -> None:
    torch.manual_seed(0)
    host = linear(64, 48, kind).float()
    model, adapter, _ = one(host, inlay.VeRA(rank=30))
    disturb(adapter, 0.3)
    x = torch.randn(20, 64)
    expected, vectors = model(x), adapter.state_dict()
    adapter.detach()
    host.to(torch.bfloat16)
    adapter = inlay.attach(model, inlay.VeRA(rank=30))
    adapter.load_state_dict(vectors)
    y = model(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "method.rank is 0; it must be at least 1"),
        ({"dropout": 1.0}, "method.dropout is 1.0; it must be at least 0 and below 1"),
        ({"d_initial": 0.0}, "method.d_initial is 0, from where nothing learns"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.VeRA(**settings)
