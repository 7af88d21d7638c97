"""An update cut to fewer directions: what is left, what it costs, and that PEFT reads it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import inlay
from inlay.errors import SettingsError
from inlay.lab.rank import spectrum
from inlay.lab.rank.spectrum import Spectrum
from inlay.lab.rank.truncation import attach_cut, by_energy, parameters, uniform
from inlay.lab.rank.updates import updates_of

from ..shapes import SHAPES, Shape, disturb, logits, method
from .matrices import thin


def layers_of(adapter: inlay.Adapter) -> dict[str, Spectrum]:
    return {name: update.spectrum for name, update in updates_of(adapter).layers.items()}


def whole(layers: dict[str, Spectrum]) -> dict[str, int]:
    return uniform(layers, 10**6)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["lora", "dora", "adalora", "dynamic-rank", "loha", "lokr", "vera", "oft"])
def test_cut_at_its_full_rank_it_computes_the_same(name: str, shape: Shape) -> None:
    model = shape.classifier()
    tuned = inlay.attach(model, method(name, shape))
    disturb(tuned)
    expected = logits(model, shape)
    cut = attach_cut(model, layers_of(tuned), whole(layers_of(tuned)), tuned)
    close(logits(model, shape), expected)
    cut.detach()
    with inlay.using(model, "default"):
        assert torch.equal(logits(model, shape), expected)  # the tuned adapter is as it was


def test_full_fine_tuning_is_cut_onto_a_base_of_its_own() -> None:
    shape = SHAPES["llama"]
    base, model = shape.classifier(), shape.classifier()
    tuned = inlay.attach(model, inlay.Full())
    disturb(tuned, 0.02)
    updates = updates_of(tuned, base)
    layers = {name: update.spectrum for name, update in updates.layers.items()}
    with torch.no_grad():  # all but the matrices as the base has it, which is what a cut leaves
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(base.get_parameter(name))
    expected = logits(model, shape)
    attach_cut(base, layers, whole(layers), tuned)
    close(logits(base, shape), expected)


def test_a_cut_leaves_the_best_approximation_of_its_rank() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(30, 20))
    tuned = inlay.attach(model, inlay.LoRA(rank=6, targets="0"))
    disturb(tuned)
    (update,) = updates_of(tuned).layers.values()
    change = (update.tuned() - update.base()).detach()
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    cut = attach_cut(model, {"0": update.spectrum}, {"0": 2}, tuned)
    left_OR, right_RI = cut.deltas["0"].factors()["weight"]  # type: ignore[operator]
    close((left_OR @ right_RI).detach().double(), (u[:, :2] * s[:2]) @ v[:2], 1e-6)
    assert left_OR.shape == (20, 2)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_ranks_by_layer_take_no_more_parameters_and_keep_no_less_energy(rank: int) -> None:
    layers = {
        "strong": spectrum.of_thin(*thin((40, 30), [9, 8, 7, 6, 5], seed=1)),
        "weak": spectrum.of_thin(*thin((40, 30), [1, 0.5, 0.2, 0.1, 0.05], seed=4)),
        "wide": spectrum.of_thin(*thin((90, 30), [6, 1, 1, 1, 1], seed=8)),
    }

    def energy(chosen: dict[str, int]) -> float:
        return sum(float(layers[name].values[:count].square().sum()) for name, count in chosen.items())

    same, differing = uniform(layers, rank), by_energy(layers, rank)
    assert parameters(layers, same) == rank * (70 + 70 + 120)
    assert parameters(layers, differing) <= parameters(layers, same)
    assert energy(differing) >= energy(same) * 0.999
    assert rank == 5 or differing["strong"] > differing["weak"]


def test_the_count_of_parameters_is_that_of_the_adapter() -> None:
    shape = SHAPES["bert"]
    model = shape.classifier()
    tuned = inlay.attach(model, inlay.LoRA(rank=4))
    disturb(tuned)
    layers = layers_of(tuned)
    chosen = by_energy(layers, 2)
    heads = sum(p.numel() for n, p in tuned.named_parameters() if n.startswith("classifier"))
    cut = attach_cut(model, layers, chosen, tuned)
    assert sum(p.numel() for p in cut.parameters()) - heads == parameters(layers, chosen)


def test_nothing_can_be_cut_from_an_update_of_zero() -> None:
    shape = SHAPES["llama"]
    tuned = inlay.attach(shape.model(), inlay.LoRA(rank=4))
    layers = layers_of(tuned)
    with pytest.raises(SettingsError, match="the update is zero in every layer"):
        attach_cut(tuned.model, layers, uniform(layers, 2), tuned)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("name", ["lora", "dora", "adalora"])
def test_peft_reads_a_cut_with_ranks_by_layer(name: str, shape: Shape, tmp_path: Path) -> None:
    model = shape.classifier()
    tuned = inlay.attach(model, method(name, shape))
    disturb(tuned)
    layers = layers_of(tuned)
    chosen = by_energy(layers, 2)
    assert len(set(chosen.values())) > 1
    cut = attach_cut(model, layers, chosen, tuned)
    expected = logits(model, shape)
    cut.save(tmp_path)
    theirs: Any = PeftModel.from_pretrained(shape.classifier(), str(tmp_path))
    close(logits(theirs.eval().base_model.model, shape), expected, 1e-5)
