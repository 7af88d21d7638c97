"""What a method may do around training: start from data, group parameters, add to the loss, act after a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import inlay
from inlay.data.settings import DataSettings
from inlay.training.run import train
from inlay.training.settings import RunSettings

SEEN: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Watched(inlay.LoRA):
    name = "watched"

    def initialize_from_data(self, adapter: inlay.Adapter, batches: Iterator[dict[str, Tensor]]) -> None:
        SEEN["first batch"] = {key: value.shape for key, value in next(batches).items()}

    def parameter_groups(self, adapter: inlay.Adapter, learning_rate: float) -> list[dict[str, Any]]:
        b = [p for name, p in adapter.named_parameters() if name.endswith("lora_B")]
        rest = [p for name, p in adapter.named_parameters() if not name.endswith("lora_B")]
        SEEN["start"] = [p.detach().clone() for p in rest]
        SEEN["rest"] = rest
        return [{"params": b, "lr": learning_rate}, {"params": rest, "lr": 0.0}]

    def penalty(self, adapter: inlay.Adapter) -> Tensor | None:
        SEEN["penalties"] = SEEN.get("penalties", 0) + 1
        return 1e-3 * sum((p.square().sum() for p in adapter.parameters()), start=next(adapter.parameters()).sum() * 0)

    def after_step(self, adapter: inlay.Adapter, step: int, total_steps: int) -> None:
        SEEN.setdefault("steps", []).append((step, total_steps))
        assert all(p.grad is not None for p in adapter.parameters())


def test_each_hook_is_called_at_its_time(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    SEEN.clear()
    settings = RunSettings(
        model=tiny_bert,
        data=DataSettings(path=reviews_folder),
        method=Watched(rank=4),
        out=str(tmp_path / "r"),
        epochs=1,
        dtype="float32",
    )
    summary = train(settings)
    assert SEEN["first batch"]["labels"] == (16,)
    assert SEEN["first batch"]["input_ids"][0] == 16
    assert SEEN["steps"] == [(step, 8) for step in range(1, 9)]
    assert SEEN["penalties"] == 8 + 2  # of the step that is followed before the run, without values and with them
    assert all((a == b).all() for a, b in zip(SEEN["start"], SEEN["rest"], strict=True))  # their learning rate is zero
    assert summary["status"] == "finished"


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_penalty_changes_the_training(weight: float, tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Decaying(inlay.LoRA):
        name = "decaying"

        def penalty(self, adapter: inlay.Adapter) -> Tensor | None:
            return weight * sum(p.square().sum() for p in adapter.parameters())

    def run(method: inlay.Method, name: str) -> float:
        asked = RunSettings(
            model=tiny_bert, data=DataSettings(path=reviews_folder), method=method, out=str(tmp_path / name), epochs=1
        )
        return train(asked)["metrics"]["tuned"]["loss"]

    assert (run(Decaying(rank=4), "a") == run(inlay.LoRA(rank=4), "b")) == (weight == 0)


@pytest.mark.parametrize("name", ["adalora", "dynamic-rank"])
def test_a_run_that_would_stop_early_still_ends_at_its_budget(
    name: str, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    method = inlay.METHODS[name](initial_rank=4, target_rank=2, interval=1)
    asked = RunSettings(
        model=tiny_bert,
        data=DataSettings(path=reviews_folder),
        method=method,
        out=str(tmp_path / "r"),
        epochs=4,
        learning_rate=1e-7,
        patience=2,
        dtype="float32",
    )
    summary = train(asked)
    saved = load_file(tmp_path / "r" / "adapter" / "adapter_model.safetensors")
    assert summary["steps"] < 32
    assert sum(len(tensor) for key, tensor in saved.items() if ".lora_A" in key) == 2 * 13  # linear layers of the base
    ranks = summary["decided"]["ranks"]
    assert sum(ranks.values()) == 2 * 13
    assert "What the method decided" in (tmp_path / "r" / "report.html").read_text()
