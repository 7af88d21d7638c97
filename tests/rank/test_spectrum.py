"""Spectra of known updates, and of every method's update beside a dense decomposition."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.core.delta import WeightDelta
from inlay.errors import AdapterStateError
from inlay.lab.rank import spectrum
from inlay.lab.rank.ranks import ranks
from inlay.lab.rank.updates import updates_of
from inlay.models import weights

from ..shapes import SHAPES, disturb, method
from .matrices import thin

KNOWN = json.loads(Path(__file__).with_name("known.json").read_text())
WITHOUT_MATRICES = {
    *("bitfit", "norm", "houlsby", "pfeiffer", "parallel"),
    *("prompt", "p-tuning", "prefix", "multitask-prompt"),
}
THIN = {"lora", "adalora", "dynamic-rank", "vera"}


@pytest.mark.parametrize("known", KNOWN["spectra"], ids=lambda known: "x".join(map(str, known["shape"])))
def test_a_known_spectrum_is_found_from_thin_factors(known: dict[str, Any]) -> None:
    shape = tuple(known["shape"])
    found = spectrum.of_thin(*thin(shape, known["values"]))
    wanted = torch.tensor(known["values"], dtype=torch.float64)
    torch.testing.assert_close(found.values, wanted, rtol=1e-6, atol=1e-6 * float(wanted[0]) * 1e-3)
    assert found.shape == shape
    left_OR, right_RI = found.factors(len(wanted))
    product = torch.linalg.multi_dot(thin(shape, known["values"]))
    torch.testing.assert_close(left_OR @ right_RI, product, rtol=1e-9, atol=1e-9 * float(wanted[0]))


def test_the_ranks_of_the_test_vector() -> None:
    known = KNOWN["ranks"]
    found = ranks(torch.tensor(known["values"]), (5, 5))
    assert found.numerical == known["numerical"]
    for name in ("stable", "effective", "participation"):
        assert getattr(found, name) == pytest.approx(known[name], abs=5e-6)
    assert {str(percent): rank for percent, rank in found.energy.items()} == known["energy"]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_projection_has_its_rank_by_every_definition_whatever_its_size(scale: float) -> None:
    found = ranks(torch.full((6,), scale), (40, 30))
    assert (found.numerical, *found.energy.values()) == (6, 6, 6, 6)
    assert (found.stable, found.effective, found.participation) == pytest.approx((6, 6, 6))


def test_an_update_of_zero_has_rank_zero() -> None:
    found = ranks(torch.zeros(4), (9, 9))
    assert (found.numerical, found.stable, found.effective, found.energy[90]) == (0, 0, 0, 0)


def test_values_below_what_float32_can_tell_do_not_count() -> None:
    eps = torch.finfo(torch.float32).eps
    assert ranks(torch.tensor([1.0, 101 * eps, 99 * eps]), (100, 50)).numerical == 2


def test_an_update_whose_dense_form_would_fill_a_disk_is_decomposed() -> None:
    found = spectrum.of_thin(*thin((300_000, 300_000), [3, 2, 1]))  # dense: 720 GB
    torch.testing.assert_close(found.values, torch.tensor([3, 2, 1], dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", [name for name in inlay.METHODS if name not in WITHOUT_MATRICES | {"full"}])
def test_every_method_has_the_spectrum_of_its_dense_change(name: str, shape: Any) -> None:
    adapter = inlay.attach(shape.model(), method(name, shape))
    disturb(adapter)
    updates = updates_of(adapter)
    assert updates.layers
    for layer, update in updates.layers.items():
        host, delta = adapter.model.get_submodule(layer), adapter.deltas[layer]
        assert isinstance(delta, WeightDelta)
        own = {part: p.double() for part, p in weights.read(host, delta.folds).items()}
        change = delta.fold(own)["weight"].detach() - own["weight"]
        wanted = torch.linalg.svdvals(change.flatten(1))
        found = update.spectrum
        assert (found.way == "thin") == (name in THIN or (name == "loha" and bool(delta.factors())))
        values = torch.zeros_like(wanted)
        values[: len(found.values)] = found.values[: len(wanted)]
        torch.testing.assert_close(values, wanted, rtol=1e-5, atol=2e-6 * float(wanted[0]))
        assert found.shape == tuple(change.flatten(1).shape) == update.shape


HOSTS = {
    "linear": lambda: nn.Linear(30, 20),
    "conv1d": lambda: Conv1D(20, 30),
    "embedding": lambda: nn.Embedding(30, 20),
    "conv2d": lambda: nn.Conv2d(6, 20, 3),
}


@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize("settings", [{}, {"rank_stabilized": True}, {"initialization": "pissa"}], ids=str)
def test_lora_has_its_spectrum_and_takes_it_back_at_every_kind_of_host(kind: str, settings: dict[str, Any]) -> None:
    if settings.get("initialization") and kind not in ("linear", "conv1d"):
        pytest.skip("pissa is for linear hosts")
    model = nn.Sequential(HOSTS[kind]())
    adapter = inlay.attach(model, inlay.LoRA(rank=4, targets="0", **settings))
    disturb(adapter)
    (update,) = updates_of(adapter).layers.values()
    before = (update.tuned() - update.base()).detach()
    torch.testing.assert_close(update.spectrum.values[:4], torch.linalg.svdvals(before)[:4], rtol=1e-5, atol=1e-6)

    adapter.detach()
    rank = len(update.spectrum.values)
    again = inlay.attach(model, inlay.LoRA.of_ranks({"0": rank}), "again")
    with torch.no_grad():
        again.deltas["0"].set_factors("weight", *(factor.float() for factor in update.spectrum.factors(rank)))  # type: ignore[operator]
    (same,) = updates_of(again).layers.values()
    torch.testing.assert_close((same.tuned() - same.base()).detach(), before, rtol=1e-5, atol=1e-6)


def test_full_fine_tuning_is_compared_with_a_base_of_its_own() -> None:
    shape = SHAPES["bert"]
    base, model = shape.model(), shape.model()
    adapter = inlay.attach(model, inlay.Full())
    disturb(adapter)
    updates = updates_of(adapter, base)
    assert "bert.embeddings.word_embeddings" in updates.layers
    assert not any(name.startswith("classifier") for name in updates.layers)  # a head has no base
    for name, update in updates.layers.items():
        change = model.get_submodule(name).weight - base.get_submodule(name).weight  # type: ignore[operator]
        torch.testing.assert_close(
            update.spectrum.values.float(), torch.linalg.svdvals(change.detach()), rtol=1e-4, atol=1e-5
        )
    norms = sum(
        1 for _, m in base.bert.named_modules() for p in m._parameters.values() if p is not None and p.ndim == 1
    )
    assert updates.others == norms


@pytest.mark.parametrize("name", sorted(WITHOUT_MATRICES))
def test_a_method_without_an_update_is_refused_with_the_reason(name: str) -> None:
    shape = SHAPES["bert"]
    adapter = inlay.attach(shape.model(), method(name, shape))
    with pytest.raises(AdapterStateError, match=f"{name} changes no weight matrix, so there is no update"):
        updates_of(adapter)


def test_what_is_dropped_has_no_part_in_the_update() -> None:
    shape = SHAPES["llama"]
    adapter = inlay.attach(shape.model(), inlay.AdaLoRA(initial_rank=4, target_rank=2))
    disturb(adapter)
    for delta in adapter.deltas.values():
        delta.kept[1:] = False  # type: ignore[operator]
    for update in updates_of(adapter).layers.values():
        assert ranks(update.spectrum.values, update.shape).numerical == 1
        assert math.isclose(
            float(update.spectrum.values[0]), float((update.tuned() - update.base()).norm()), rel_tol=1e-5
        )
