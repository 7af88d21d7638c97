"""A run on a base that others have used is the run that it would have been alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inlay.training.run import train
from inlay.training.shared_base import SharedBase

from ..training.test_run import settings


def told(folder: Path) -> list[Any]:
    """What depends on bits: losses, scores, the adapter's file."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        [(e["event"], e["loss"]) for e in lines if "loss" in e],
        json.loads((folder / "summary.json").read_text())["metrics"],
        (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
        (folder / "predictions.jsonl").read_bytes(),
    ]


def test_a_shared_base_gives_the_same_run_to_the_last_bit(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    bases = SharedBase()
    plan = [("lora", 0), ("pfeiffer", 0), ("lora", 1), ("bitfit", 1), ("prefix", 0)]
    for number, (method, seed) in enumerate(plan):
        asked = {"method": method, "seed": seed, "epochs": 1}
        train(settings(tiny_bert, reviews_folder, tmp_path / f"shared-{number}", **asked), bases=bases)
        torch.rand(7)  # whatever happens between runs
        train(settings(tiny_bert, reviews_folder, tmp_path / f"alone-{number}", **asked))
        assert told(tmp_path / f"shared-{number}") == told(tmp_path / f"alone-{number}"), method
    assert bases.loads == 2  # one for each seed


def test_full_fine_tuning_uses_the_base_up(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    bases = SharedBase()
    for number, method in enumerate(("full", "lora", "pfeiffer")):
        train(settings(tiny_bert, reviews_folder, tmp_path / str(number), method=method, epochs=1), bases=bases)
    assert bases.loads == 2
    train(settings(tiny_bert, reviews_folder, tmp_path / "alone", method="lora", epochs=1))
    assert told(tmp_path / "1") == told(tmp_path / "alone")


def test_another_dtype_or_data_set_is_another_base(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    bases = SharedBase()
    train(settings(tiny_bert, reviews_folder, tmp_path / "a", epochs=1), bases=bases)
    train(settings(tiny_bert, reviews_folder, tmp_path / "b", epochs=1, dtype="bfloat16"), bases=bases)
    assert bases.loads == 2


def test_a_base_that_was_changed_is_not_lent_again(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(SharedBase):
        def take_back(self, adapter: Any) -> None:
            with torch.no_grad():
                next(adapter.model.base_model.parameters()).add_(0.5)
            super().take_back(adapter)

    bases = Careless()
    for name in "ab":
        train(settings(tiny_bert, reviews_folder, tmp_path / name, epochs=1), bases=bases)
    assert bases.loads == 2
