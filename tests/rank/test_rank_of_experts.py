"""Experts that share a parameter are a layer each: their spectra, and what a cut of them computes and costs."""

import pytest
import torch

import inlay
from inlay.lab.rank.truncation import attach_cut, by_energy, parameters, uniform
from inlay.lab.rank.updates import updates_of

from ..mixtures import logits, mixture
from ..shapes import disturb


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "jetmoe"])
def test_each_expert_is_a_layer(name: str) -> None:
    model = mixture(name)
    adapter = inlay.attach(model, inlay.LoRA(rank=3, targets=("experts",)))
    disturb(adapter, 0.3)
    updates = updates_of(adapter)
    assert updates.others == 0
    seen = 0
    for host, module, delta in adapter.hosts():
        for parameter in delta.folds:  # type: ignore[attr-defined]
            own = module.get_parameter(parameter).detach()
            folded = delta.fold({parameter: own.double()})[parameter].detach()  # type: ignore[operator]
            for expert in range(4):
                update = updates.layers[f"{host}.{parameter}.{expert}"]
                change, weight = folded[expert] - own[expert], own[expert].double()
                if name == "gpt_oss":
                    change, weight = change.T, weight.T
                assert update.shape == change.shape
                torch.testing.assert_close(update.base(), weight, rtol=0, atol=0)
                torch.testing.assert_close((update.tuned() - update.base()).detach(), change, rtol=0, atol=1e-6)
                values = torch.linalg.svdvals(change)[:3]
                torch.testing.assert_close(update.spectrum.values, values, rtol=1e-5, atol=1e-5)
                assert update.base_norm() == pytest.approx(float(weight.norm()), rel=1e-5)
                seen += 1
    assert seen == len(updates.layers)


def test_a_cut_computes_what_is_left_and_costs_what_it_says() -> None:
    model = mixture("mixtral")
    tuned = inlay.attach(model, inlay.LoRA(rank=4))
    disturb(tuned, 0.3)
    with torch.no_grad():  # one expert has less to keep than the others of its stack
        tuned.deltas["model.layers.0.mlp.experts"].of("down_proj").lora_B[2, :, 1:] = 0  # type: ignore[operator]
    expected = logits(model)
    layers = {name: update.spectrum for name, update in updates_of(tuned).layers.items()}
    whole = uniform(layers, 4)
    assert whole["model.layers.0.mlp.experts.down_proj.2"] == 1
    for chosen in (whole, uniform(layers, 2), by_energy(layers, 2)):
        cut = attach_cut(model, layers, chosen, tuned)
        assert sum(p.numel() for p in cut.parameters()) == parameters(layers, chosen)
        if chosen is whole:
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
        host = model.model.layers[1].mlp.experts
        delta = cut.deltas["model.layers.1.mlp.experts"]
        folded = delta.fold({"gate_up_proj": host.gate_up_proj.detach()})["gate_up_proj"]  # type: ignore[operator]
        change = (folded - host._parameters["gate_up_proj"])[3].detach().double()
        kept = chosen["model.layers.1.mlp.experts.gate_up_proj.3"]
        left_OK, right_KI = layers["model.layers.1.mlp.experts.gate_up_proj.3"].factors(kept)
        torch.testing.assert_close(change, left_OK @ right_KI, rtol=0, atol=1e-5)
        cut.detach()
    assert parameters(layers, by_energy(layers, 2)) <= parameters(layers, uniform(layers, 2))
