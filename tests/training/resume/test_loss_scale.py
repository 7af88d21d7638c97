"""A run in float16 that was interrupted goes on with the scale of its loss as it was."""

from pathlib import Path
from typing import Any

import pytest

from inlay import loss_scale
from inlay.loss_scale import LossScale
from inlay.training.checkpoint import read_checkpoint
from inlay.training.checkpoint_fit import progress_of
from inlay.training.run import resume

from .runs import check, interrupted, short


def test_an_interrupted_run_goes_on_with_its_scale(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "_FIRST", 2.0**24)
    monkeypatch.setattr(loss_scale, "_STEPS", 3)
    asked = short(dropping_bert, few_reviews, tmp_path, dtype="float16")
    check(asked, tmp_path, event="step", step=5)


@pytest.mark.parametrize(
    "damage",
    [{"factor": 0.0, "steps": 0}, {"factor": 1.5, "steps": 0}, {"factor": 3, "steps": 0}, {"factor": 2.0, "steps": -1}],
)
def test_a_damaged_scale_is_found(damage: dict[str, Any], dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    run = interrupted(short(dropping_bert, few_reviews, tmp_path), tmp_path / "run", event="step", step=2)
    told = read_checkpoint(run).progress
    assert progress_of(told, "accuracy").scale == LossScale()
    with pytest.raises(ValueError, match="the loss is scaled"):
        progress_of(told | {"scale": damage}, "accuracy")
    before = {name: value for name, value in told.items() if name != "scale"}
    assert progress_of(before, "accuracy").scale == LossScale()  # of a version that had none
    assert resume(run)["status"] == "finished"
