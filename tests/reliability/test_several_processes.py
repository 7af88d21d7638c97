"""Several processes train the adapter that one trains, bit for bit, and go on in any number after a kill."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ..training.resume.runs import assert_same
from .kills import finished, killed
from .test_kills import REMEMBERING, asked_of


def divided(model: str, data: str, out: Path, name: str) -> Any:
    """Micro-batches of two rows, of which neither two nor three processes have equally many."""
    return asked_of(model, data, out, name, batch_size=10, micro_batch_size=2, epochs=9)


def check_numbers(asked: Any, tmp_path: Path, numbers: tuple[int, ...]) -> None:
    whole = tmp_path / "whole"
    assert finished(replace(asked, out=str(whole))) == 0
    for number in numbers:
        run = tmp_path / f"run-{number}"
        assert finished(replace(asked, out=str(run)), together=number) == 0
        assert_same(run, whole)


@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_two_and_three_processes_train_what_one_does(
    name: str, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check_numbers(divided(dropping_bert, few_reviews, tmp_path, name), tmp_path, (2, 3))


def check_kills(asked: Any, tmp_path: Path, kills: int, seed: int) -> None:
    """One of two processes is killed, whichever; one or three go on, or two."""
    drawn, whole, run = random.Random(seed), tmp_path / "whole", tmp_path / "run"
    assert finished(replace(asked, out=str(whole))) == 0
    again = replace(asked, out=str(run))
    while kills:
        victim, steps = drawn.randrange(2), drawn.randrange(9)
        if killed(again, steps, drawn.uniform(0, 0.05), together=2, victim=victim):
            kills -= 1
        assert finished(again, together=drawn.choice([1, 2, 3])) == 0
        assert_same(run, whole)
        shutil.rmtree(run)


def test_a_run_whose_process_is_killed_goes_on_in_another_number(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check_kills(divided(dropping_bert, few_reviews, tmp_path, "adalora"), tmp_path, kills=2, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEMBERING)
def test_runs_killed_twenty_times_in_all_go_on_in_another_number(
    name: str, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check_kills(divided(dropping_bert, few_reviews, tmp_path, name), tmp_path, kills=3, seed=len(name))
