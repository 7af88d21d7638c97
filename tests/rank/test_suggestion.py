"""Ranks before training: what they are made of, and that they can be trained with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.cli.train import parse_settings
from inlay.data.settings import DataSettings
from inlay.lab.rank.gradients import agreed, gradients_of
from inlay.lab.rank.suggestion import suggest
from inlay.training.journal import Journal
from inlay.training.prepared import prepare_run
from inlay.training.settings import RunSettings

from ..shapes import SHAPES
from .matrices import orthonormal


def asked(model: str, data: str, rank: int = 4, **changes: Any) -> Any:
    method = inlay.LoRA(rank=rank)
    return RunSettings(model=model, data=DataSettings(path=data), method=method, **{"dtype": "float32"} | changes)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["input_ids"]).logits.square().mean()


def test_a_weight_s_gradient_is_found_without_the_weight_asking_for_one() -> None:
    model = SHAPES["llama"].model()
    hosts = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    ids = torch.randint(2, 50, (4, 3, 7), generator=torch.Generator().manual_seed(1))
    halves = gradients_of(model, hosts, iter({"input_ids": row} for row in ids), loss)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    for half in (0, 1):
        model.zero_grad()
        for row in ids[half::2]:
            loss(model, {"input_ids": row}).backward()
        for host in hosts:
            torch.testing.assert_close(halves[host][half], model.get_submodule(host).weight.grad, atol=1e-6, rtol=1e-4)


def test_what_both_halves_have_counts_and_what_one_has_does_not() -> None:
    u, v = orthonormal(20, 6, 0).float(), orthonormal(30, 6, 1).float()
    both = 5 * torch.outer(u[:, 0], v[:, 0]) + 2 * torch.outer(u[:, 1], v[:, 1])
    first, second = both + 3 * torch.outer(u[:, 2], v[:, 2]), both + 3 * torch.outer(u[:, 3], v[:, 3])
    gains = agreed((first, second), 6)
    assert gains[:2] == pytest.approx([25, 0], abs=1e-3)  # the second of each half is its noise, and ends the list
    assert agreed((both, both), 6) == pytest.approx([25, 4, 0, 0, 0, 0], abs=1e-3)
    assert agreed((both, -both), 3) == [0, 0, 0]
    assert agreed((first, 2 * both), 3) == pytest.approx(agreed((2 * both, first), 3))  # no half is the first


@pytest.mark.parametrize("origin", ["activations", "gradients"])
@pytest.mark.parametrize("rank", [2, 4])
def test_a_suggestion_takes_no_more_parameters_and_nearly_as_many(
    origin: Any, rank: int, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    found = suggest(asked(tiny_bert, reviews_folder, rank), origin, tmp_path / "out")
    smallest = min(sum(layer.shape) for layer in found.layers)
    assert found.uniform_parameters == rank * sum(sum(layer.shape) for layer in found.layers)
    assert found.uniform_parameters - smallest < found.parameters <= found.uniform_parameters
    assert found.parameters == sum(layer.rank * sum(layer.shape) for layer in found.layers)
    assert all(1 <= layer.rank <= 2 * rank for layer in found.layers)
    assert rank == 2 or len({layer.rank for layer in found.layers}) > 1
    assert (origin, rank) != ("gradients", 2) or min(layer.rank for layer in found.layers) == 1
    assert {layer.place.role for layer in found.layers} == {"attention", "feedforward", "outside"}


def test_the_settings_that_are_written_train_with_these_ranks(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    found = suggest(asked(tiny_bert, reviews_folder, dtype="auto", seed=1), "activations", tmp_path / "out")
    settings = parse_settings(["--config", found.settings_file, "--seed", "2", "--out", str(tmp_path / "run")])
    assert (settings.seed, settings.method.rank, settings.model) == (
        2,
        max(layer.rank for layer in found.layers),
        tiny_bert,
    )
    run = prepare_run(settings, Journal(lambda _: None))
    model, heads = run.task.load(torch.float32)
    adapter = inlay.attach(model, settings.method, heads=heads)
    ranks = {name: len(delta.lora_A) for name, delta in adapter.deltas.items() if hasattr(delta, "lora_A")}
    assert ranks == {layer.name: layer.rank for layer in found.layers}
    scales = {delta.scale for delta in adapter.deltas.values() if hasattr(delta, "lora_A")}
    assert scales == {32 / 4}  # as with one rank everywhere


def test_what_a_rank_can_hold_is_at_least_what_the_labels_say(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    found = suggest(asked(tiny_bert, reviews_folder), "activations", tmp_path / "out")
    assert found.floor == 1  # 120 rows of one bit each
