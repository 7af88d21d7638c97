"""Several processes train the adapter that one trains, bit for bit, and go on in any number after a kill."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from inlay import processes
from inlay.errors import CheckpointError, DoesNotFit, SettingsError
from inlay.launch import STARTED_BY
from inlay.machine import out_of_memory
from inlay.tasks.classify import Classify
from inlay.training import passes, prepared, run_state, together

from ..training.resume.runs import assert_same
from .kills import finished, killed, started
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


@pytest.mark.parametrize("name", ["lora", pytest.param("adalora", marks=pytest.mark.slow)])
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


def loss_that(number: int, fault: Callable[[], object]) -> None:
    """Meet the fault as process 1 computes its fifth loss."""
    if number != 1:
        return
    whole, calls = Classify.loss, itertools.count()

    def loss(*arguments: Any) -> Any:
        if next(calls) == 8:
            fault()
        return whole(*arguments)

    Classify.loss = loss


def runs_out_of_memory() -> None:
    raise torch.OutOfMemoryError("tried to allocate 1 GiB")


def has_a_bug() -> None:
    raise TypeError("this is no number")


def is_stopped() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def is_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file")


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_what_ends_one_process_ends_all_and_is_told(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path / "bug", "lora")
    asked = replace(asked, checkpoint_minutes=0)  # there is one only if the first keeps it in the end
    assert finished(asked, together=2, fault=partial(loss_that, fault=has_a_bug)) == 1
    summary = summary_of(tmp_path / "bug")
    assert summary["status"] == "failed"
    assert summary["reason"].startswith("process 1 failed: Traceback")
    assert "TypeError: this is no number" in summary["reason"]
    assert "go on with: inlay resume" in summary["reason"]

    asked = divided(dropping_bert, few_reviews, tmp_path / "full", "lora")
    assert finished(asked, together=2, fault=partial(loss_that, fault=is_full)) == 4
    assert "process 1: /a/file: No space left on device" in summary_of(tmp_path / "full")["reason"]


def test_a_process_without_memory_makes_all_divide_the_step(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path / "run", "lora")
    assert finished(asked, together=2, fault=partial(loss_that, fault=runs_out_of_memory)) == 0
    assert [each["micro_batch_size"] for each in summary_of(tmp_path / "run")["divided"]] == [1]


def test_a_signal_to_one_process_stops_all_after_the_step(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path, "lora")
    assert finished(replace(asked, out=str(tmp_path / "whole"))) == 0
    run = replace(asked, out=str(tmp_path / "run"))
    assert finished(run, together=2, fault=partial(loss_that, fault=is_stopped)) == 130
    assert summary_of(tmp_path / "run")["status"] == "interrupted"
    assert finished(run, together=3) == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


def is_left_behind(number: int) -> None:
    os.environ[STARTED_BY] = str(os.getppid() if number == 0 else os.getpid())


def test_processes_whose_launcher_is_gone_stop_with_a_checkpoint(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path / "run", "lora")
    assert finished(asked, together=2, fault=is_left_behind) == 130
    summary = summary_of(tmp_path / "run")
    assert summary["status"] == "interrupted"
    assert "go on with: inlay resume" in summary["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEMBERING)
def test_runs_killed_twenty_times_in_all_go_on_in_another_number(
    name: str, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check_kills(divided(dropping_bert, few_reviews, tmp_path, name), tmp_path, kills=3, seed=len(name))


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_with_which_others_share_the_base_out_is_lost_and_the_run_goes_on(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    """The others find it gone within a call of the model, where FSDP2 gathers weights."""
    asked = replace(divided(dropping_bert, few_reviews, tmp_path / "run", "lora"), shard=True)
    first, second = started(asked, together=2, fault=partial(loss_that, fault=dies))
    second.join()
    first.join(20)
    assert (first.exitcode, second.exitcode) == (1, -signal.SIGKILL)
    reason = summary_of(tmp_path / "run")["reason"]
    assert reason.startswith("a process that trained with this one is gone")
    assert "go on with: inlay resume" in reason
    assert finished(asked, together=2) == 0


def reads_other_data(number: int) -> None:
    if number == 1:
        run_state.data_fingerprint = lambda *_: "other"


@pytest.mark.slow
def test_processes_that_read_other_data_end(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path / "run", "lora")
    assert finished(asked, together=2, fault=reads_other_data) == 1
    assert "the data differs between process" in summary_of(tmp_path / "run")["reason"]


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    group = processes._Group(1, 2, HashStore())
    monkeypatch.setattr(processes._Group, "joined", group)
    yield monkeypatch
    for each in group.folders.values():
        each.cleanup()


@pytest.mark.usefixtures("second_of_two")
def test_what_a_process_tells_names_the_folders_of_the_first() -> None:
    own = processes.own_folder(Path("runs/first"))
    assert own != Path("runs/first")
    assert processes._by_the_first(f"{own} has no checkpoint") == "runs/first has no checkpoint"


@pytest.mark.usefixtures("second_of_two")
def test_an_error_that_all_have_found_names_the_folder_of_the_first() -> None:
    own, group = processes.own_folder(Path("runs/first")), processes._Group.joined
    assert group is not None
    group.store.set("failed", "0\nCheckpointError\nruns/first is finished")
    assert str(processes.first_failure(CheckpointError(f"{own} is finished"))) == "runs/first is finished"


@pytest.mark.usefixtures("second_of_two")
def test_a_process_without_memory_for_the_sum_ends_all_as_none_can_go_back() -> None:
    with pytest.raises(DoesNotFit, match="as the processes' gradients were added") as found, passes._by_all():
        runs_out_of_memory()
    assert out_of_memory(found.value) is None  # so that no step is tried again


def test_one_of_several_accelerators_is_not_for_several_processes(second_of_two: pytest.MonkeyPatch) -> None:
    second_of_two.setattr(prepared, "pick_device", torch.device)
    second_of_two.setenv("LOCAL_RANK", "1")
    with pytest.raises(SettingsError, match="2 processes take one each; give cuda, and"):
        prepared._own_device("cuda:1", is_new=True)
    for asked, is_new in (("cuda", True), ("cuda:0", False)):
        assert prepared._own_device(asked, is_new=is_new) == torch.device("cuda:1")


@pytest.mark.parametrize(("rows", "end"), [(8, "8 rows at once"), (16, "; 1 of them has none: give a smaller --micro")])
def test_processes_that_have_no_rows_are_told_of(
    rows: int, end: str, second_of_two: pytest.MonkeyPatch, dropping_bert: str, few_reviews: str
) -> None:
    second_of_two.setattr(processes, "gathered", lambda value: [value, value])
    asked = asked_of(dropping_bert, few_reviews, Path("run"), "lora", batch_size=16, micro_batch_size=rows)
    assert end in (together.told_of_processes(asked) or "")
