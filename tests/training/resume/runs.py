"""Short runs, how to interrupt them, and what of them has to be the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inlay.data.settings import DataSettings
from inlay.training.checkpoint import CHECKPOINT
from inlay.training.run import resume, train
from inlay.training.settings import RunSettings

from ...shapes import SHAPES, method

TIMES = {
    "train_seconds",
    "wall_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "raised_peak",
    "tensors",
    "plan",
    "processes",
}
DROPOUT = 0.2


class StopAt:
    """A watcher that interrupts a run when it sees an event with these values."""

    def __init__(self, **wanted: Any):
        self.wanted, self.events = wanted, []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if all(event.get(name) == value for name, value in self.wanted.items()):
            raise KeyboardInterrupt


def short(model: str, data: str, out: Path, name: str = "lora", **changes: Any) -> RunSettings[Any]:
    """Nine steps, evaluated after every third."""
    wanted: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-2, "evaluations_per_epoch": 1, "dtype": "float32"}
    built = changes.pop("method", None) or method(name, SHAPES["bert"])
    return RunSettings(model=model, data=DataSettings(path=data), method=built, out=str(out), **wanted | changes)


def interrupted(asked: RunSettings[Any], out: Path, **at: Any) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(out)), StopAt(**at))
    assert (out / CHECKPOINT).is_file()
    return out


def told(run: Path) -> dict[str, Any]:
    """The summary without what the clock and the process decide."""
    summary = json.loads((run / "summary.json").read_text())
    if summary["forgetting"]:
        del summary["forgetting"]["seconds"]
    return {name: value for name, value in summary.items() if name not in TIMES}


def steps(run: Path) -> dict[int, tuple[float, float, float]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {e["step"]: (e["loss"], e["learning_rate"], e["gradient_norm"]) for e in events if e["event"] == "step"}


def evaluations(run: Path) -> dict[tuple[int, bool], dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(e["step"], "start" in e): e | {"time": 0} for e in events if e["event"] == "evaluate"}


def assert_same(run: Path, whole: Path) -> None:
    """Bit for bit, from the first loss to the last file."""
    assert steps(run) == steps(whole)
    assert evaluations(run) == evaluations(whole)
    assert told(run) == told(whole)
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == names
    for name in sorted(names):
        if name.endswith(".safetensors"):  # whose header has its entries in any order
            found, wanted = load_file(run / name), load_file(whole / name)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
        elif name.startswith("adapter") or name == "predictions.jsonl":
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name


_WHOLE: dict[str, Path] = {}  # runs that nothing interrupted, by their settings


def train_whole(asked: RunSettings[Any], whole: Path) -> None:
    """Train without interruption into `whole`, or copy what an earlier test has trained with the same settings."""
    if earlier := _WHOLE.get(str(replace(asked, out=""))):
        shutil.copytree(earlier, whole)
        return
    train(replace(asked, out=str(whole)))
    _WHOLE[str(replace(asked, out=""))] = whole


def check(asked: RunSettings[Any], tmp_path: Path, **at: Any) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        train_whole(asked, whole)
    run = interrupted(asked, tmp_path / "run", **at)
    summary = resume(run)
    assert summary["status"] == "finished"
    assert_same(run, whole)
    shutil.rmtree(run)
