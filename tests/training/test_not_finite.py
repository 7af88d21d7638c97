"""NaN never passes for success: not in a parameter, not in a score, not in a file."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.cli import main
from inlay.errors import TrainingFailed
from inlay.tasks.classify import Classify
from inlay.tasks.metric import better_than, scores_from_json
from inlay.training.run import train
from inlay.training.settings import RunSettings

from .resume.runs import short

NAN = math.nan


@pytest.fixture
def asked(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> RunSettings[Any]:
    """16 steps, evaluated after the eighth and the last."""
    return short(tiny_bert, reviews_folder, tmp_path / "run", epochs=2, forgetting=False)


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_scores_that_are_not_finite_are_never_best(by: str) -> None:
    def of(loss: float) -> dict[str, float]:
        return {"loss": loss, "accuracy": 0.5}

    for bad in (NAN, math.inf):
        assert not better_than(of(bad), None, by)
        assert not better_than(of(bad), of(1.0), by)
        assert not better_than(of(bad), of(NAN), by)
        assert better_than(of(1.0), of(bad), by)
    assert better_than(of(1.0), None, by)
    assert better_than(of(1.0), of(2.0), by)
    assert not better_than(of(2.0), of(1.0), by)


def check_failed(run: Path, reason: str) -> dict[str, Any]:
    """The run has failed for this reason, every file is valid JSON, and a report can be made of them."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    summary = json.loads((run / "summary.json").read_text(), parse_constant=refuse)
    assert summary["status"] == "failed"
    assert reason in summary["reason"]
    assert not (run / "checkpoints").exists()
    assert main(["eval", str(run), "--report"]) == 0
    return summary


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_parameter_that_the_last_step_breaks(
    value: float, asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later loss tells of it. The adapter of the best step before it is kept."""

    @torch.no_grad()
    def breaks(_: Any, adapter: Any, step: int, steps: int) -> None:
        if step == steps:
            next(iter(adapter.parameters())).view(-1)[0] = value

    monkeypatch.setattr(inlay.LoRA, "after_step", breaks)
    with pytest.raises(TrainingFailed, match=r"step 16 left 1 of the adapter's parameters not finite, such as .*lora_"):
        train(asked)
    assert asked.out is not None
    summary = check_failed(Path(asked.out), "the adapter of step 8, the best so far, is kept")
    assert summary["best_step"] == 8
    assert main(["eval", asked.out]) == 0  # what is kept is good


@pytest.mark.parametrize("bad", [1, 2, 3, 4], ids=["base", "first", "last", "test"])
def test_an_evaluation_that_is_not_finite(
    bad: int, asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, count = Classify.evaluate, 0

    def breaks(self: Any, model: Any, split: str) -> Any:
        nonlocal count
        count += 1
        found = evaluate(self, model, split)
        return replace(found, scores={"loss": NAN, "accuracy": 1.0, "macro_f1": NAN}) if count == bad else found

    assert asked.out is not None
    with monkeypatch.context() as patched:
        patched.setattr(Classify, "evaluate", breaks)
        flags = ["--epochs", "2", "--evaluations-per-epoch", "1", "--no-forgetting", "--out", asked.out, "--json"]
        assert main(["train", asked.model, asked.data.path, *flags]) == 4
    shown = capsys.readouterr()
    assert "NaN" not in shown.out
    assert [json.loads(line)["event"] for line in shown.out.splitlines()][-1] == "error"
    split, when = ("test" if bad == 4 else "valid"), ("before any training", "step 8", "step 16", "training")[bad - 1]
    assert f"the loss on {split} is nan" in shown.err
    assert when in shown.err
    kept = "nothing was evaluated yet" if bad <= 2 else "the adapter of step"
    summary = check_failed(Path(asked.out), kept)
    assert summary["metrics"]["tuned"] is None or math.isfinite(summary["metrics"]["tuned"]["loss"])


def test_a_perplexity_beyond_any_number_is_null_in_files_and_a_number_again() -> None:
    scores = {"loss": 1000.0, "perplexity": None}
    assert scores_from_json(scores, "loss") == {"loss": 1000.0, "perplexity": math.inf}
    for wrong in ({"perplexity": 1.0}, {"loss": "1"}, [1.0], {"loss": 1.0}):
        with pytest.raises(ValueError, match="no"):
            scores_from_json(wrong, "perplexity")
