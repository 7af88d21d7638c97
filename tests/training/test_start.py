"""A new head that knows something before the first step: its start is kept, until a step is better."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.tasks import linear_head
from inlay.tasks.classify import Classify
from inlay.training.run import train
from inlay.training.settings import RunSettings

from .resume.runs import check, interrupted, short

TOO_HIGH = 0.3


@pytest.fixture
def asked(tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings[Any]:
    """A run whose head is fitted: the features of a random model are not moved first."""
    monkeypatch.setattr(linear_head, "_MOVED", 0.0)
    return short(tiny_bert, reviews_folder, tmp_path / "run", patience=0, forgetting=False)


def evaluations(run: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "evaluate"]


def test_the_start_is_told_after_the_base_and_as_the_best(asked: RunSettings[Any]) -> None:
    summary = train(asked)
    base, start, *after = evaluations(Path(summary["folder"]))
    assert (base["step"], start["step"], [each["step"] for each in after]) == (0, 0, [8, 16, 24])
    assert start["best"]
    assert start["loss"] < base["loss"]
    assert after[0]["best"] == (after[0]["accuracy"] > start["accuracy"] or after[0]["loss"] < start["loss"])
    log = (Path(summary["folder"]) / "log.txt").read_text()
    assert "start   valid: accuracy" in log
    told = summary["metrics"]["start"]
    assert told == {name: start[name] for name in told}
    assert "accuracy" in told


def test_a_training_that_makes_it_worse_keeps_the_start(asked: RunSettings[Any]) -> None:
    summary = train(replace(asked, learning_rate=TOO_HIGH, guard=False))
    _, start, *after = evaluations(Path(summary["folder"]))
    assert not any(each["best"] for each in after)
    assert summary["best_step"] == 0
    assert (tuned := summary["metrics"]["tuned"]) is not None
    assert tuned == {name: start[name] for name in tuned}
    log = (Path(summary["folder"]) / "log.txt").read_text()
    assert "no step scored better on valid than the start, so the adapter is kept as it began" in log
    assert " (the start), trained in" in log
    assert inlay.open(summary["folder"], device="cpu").evaluate()["tuned"]["accuracy"] == start["accuracy"]


def test_the_guard_goes_back_from_a_loss_that_has_risen_above_the_start(asked: RunSettings[Any]) -> None:
    far = replace(asked, epochs=10, learning_rate=TOO_HIGH)
    summary = train(far)
    assert summary["went_back"]
    assert summary["went_back"][0]["to"] == 0
    start = evaluations(Path(summary["folder"]))[1]
    assert (tuned := summary["metrics"]["tuned"]) is not None
    assert tuned["accuracy"] >= start["accuracy"]


@pytest.mark.parametrize("step", [4, 6, 13, 20])
@pytest.mark.parametrize("name", ["lora", "adalora", "prompt"])
def test_a_run_whose_start_is_the_best_goes_on_exactly(
    name: str, step: int, asked: RunSettings[Any], tmp_path: Path
) -> None:
    far = replace(asked, method=inlay.METHODS[name](), learning_rate=TOO_HIGH, epochs=8)
    check(far, tmp_path, event="step", step=step)


def test_an_interrupted_run_keeps_its_start(asked: RunSettings[Any], tmp_path: Path) -> None:
    far = replace(asked, learning_rate=TOO_HIGH, guard=False)
    run = interrupted(far, tmp_path / "stopped", event="step", step=2)
    reason = json.loads((run / "summary.json").read_text())["reason"]
    assert "the adapter of the start, the best so far, is kept" in reason
    assert (run / "adapter").is_dir()


def test_ranks_that_are_not_settled_keep_no_start(asked: RunSettings[Any]) -> None:
    budget = inlay.AdaLoRA(target_rank=2, initial_rank=4, interval=1, initial_phase=0.1, final_phase=0.5)
    summary = train(replace(asked, method=budget, learning_rate=TOO_HIGH, guard=False))
    assert summary["best_step"] > 0
    assert sum(summary["decided"]["ranks"].values()) == 2 * len(summary["decided"]["ranks"])


def test_a_head_is_fitted_to_the_features_of_the_adapter_that_a_run_starts_from(
    asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(asked)
    start_head, moved = Classify.start_head, []

    def watched(task: Classify, adapter: Any, most_rows: int) -> str | None:
        moved.append(any(p.abs().sum() > 0 for name, p in adapter.named_parameters() if name.endswith("lora_B")))
        return start_head(task, adapter, most_rows)

    monkeypatch.setattr(Classify, "start_head", watched)
    train(replace(asked, out=f"{asked.out}-alone"))
    train(replace(asked, out=f"{asked.out}-on"), start=Path(first["folder"]))
    assert moved == [False, True]
