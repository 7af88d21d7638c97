"""A run whose process dies, wherever that is, goes on to the bytes that it would have had."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ..training.resume.runs import DROPOUT, assert_same, short
from .kills import DIED, finished, killed

REMEMBERING = ("lora", "dora", "adalora", "dynamic-rank", "prompt", "multitask-prompt", "full")


def asked_of(model: str, data: str, out: Path, name: str = "lora", **changes: Any) -> Any:
    """A checkpoint after each of nine steps."""
    asked = short(model, data, out, name, checkpoint_minutes=1e-9, forgetting=False, seed=3, **changes)
    if "dropout" in type(asked.method).__dataclass_fields__:
        asked = replace(asked, method=replace(asked.method, dropout=DROPOUT))
    return asked


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check_every_death(asked: Any, tmp_path: Path, chosen: slice, twice: bool) -> None:
    """It may die instead of each rename, and `twice`, once more when it goes on, before it is left alone."""
    whole = tmp_path / "whole"
    assert finished(replace(asked, out=str(whole)), counts=str(tmp_path / "count")) == 0
    for number in range(int((tmp_path / "count").read_text()))[chosen]:
        run = tmp_path / f"run-{number}"
        again = replace(asked, out=str(run))
        assert finished(again, dies_at=number) == DIED
        assert not (run / "adapter").exists() or names(run / "adapter") == names(whole / "adapter")
        if twice:
            finished(again, dies_at=1)
        assert finished(again) == 0
        assert not list(run.rglob("*.unfinished"))
        assert_same(run, whole)
        shutil.rmtree(run)


def test_a_death_instead_of_a_rename_changes_nothing(
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
) -> None:
    check_every_death(
        asked_of(dropping_bert, few_reviews, tmp_path, epochs=1), tmp_path, slice(2, None, 5), twice=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "adalora", "full"])
def test_a_death_instead_of_any_rename_changes_nothing(
    name: str,
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
) -> None:
    check_every_death(asked_of(dropping_bert, few_reviews, tmp_path, name), tmp_path, slice(None), twice=True)


def check_kills(asked: Any, tmp_path: Path, kills: int, seed: int) -> None:
    """At random moments of random steps, and before the first, until there were so many."""
    drawn, whole, run = random.Random(seed), tmp_path / "whole", tmp_path / "run"
    assert finished(replace(asked, out=str(whole))) == 0
    again = replace(asked, out=str(run))
    while kills:
        if killed(again, drawn.randrange(9), drawn.uniform(0, 0.05)):
            kills -= 1
            if kills and drawn.random() < 0.5:  # it is killed once more on its way
                continue
        assert finished(again) == 0
        assert_same(run, whole)
        shutil.rmtree(run)


def test_a_killed_run_goes_on_to_the_same_bytes(
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
) -> None:
    check_kills(asked_of(dropping_bert, few_reviews, tmp_path, "adalora"), tmp_path, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEMBERING)
def test_runs_killed_a_hundred_times_in_all_go_on_to_the_same_bytes(
    name: str,
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
) -> None:
    check_kills(asked_of(dropping_bert, few_reviews, tmp_path, name), tmp_path, kills=15, seed=len(name))
