"""Several processes where one has no room, another clock, comes late or never, or finds the folder taken."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from inlay.cli import main
from inlay.errors import SettingsError
from inlay.formats.files import held
from inlay.launch import patience
from inlay.meeting import meet

from ..training.resume.runs import assert_same
from .full_disk import FullDisk
from .kills import finished, free_port
from .test_several_processes import divided, summary_of


def has_no_room(number: int, of: int, below: str, first: int) -> None:
    if number == of:
        FullDisk(Path(below), first=first, for_good=True).install(pytest.MonkeyPatch())


@pytest.mark.parametrize(
    ("of", "first"), [pytest.param(0, 60, marks=pytest.mark.slow), pytest.param(1, 0, marks=pytest.mark.slow), (1, 12)]
)
def test_a_full_disk_of_one_process_ends_all_and_the_run_goes_on_when_there_is_room(
    of: int, first: int, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    """The first writes into the run's folder, each other into one of its own that is removed."""
    asked = divided(dropping_bert, few_reviews, tmp_path, "lora")
    assert finished(replace(asked, out=str(tmp_path / "whole"))) == 0
    run = replace(asked, out=str(tmp_path / "run"))
    below = str(tmp_path / "run") if of == 0 else os.path.join(tempfile.gettempdir(), "inlay-")
    assert finished(run, together=2, fault=partial(has_no_room, of=of, below=below, first=first)) == 4
    if of and first:
        assert "process 1: " in summary_of(tmp_path / "run")["reason"]
    assert finished(run, together=2) == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


def comes_late_and_lives_tomorrow(number: int) -> None:
    if number == 1:
        time.sleep(2)
        now, local = time.time, time.localtime
        time.time = lambda: now() + 86_400
        time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)


@pytest.mark.slow
def test_a_process_that_comes_late_by_another_clock_changes_nothing(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path, "lora")
    assert finished(replace(asked, out=str(tmp_path / "whole"))) == 0
    run = replace(asked, out=str(tmp_path / "run"))
    assert finished(run, together=2, fault=comes_late_and_lives_tomorrow) == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_folder_that_is_taken_is_refused_by_all(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = divided(dropping_bert, few_reviews, tmp_path / "run", "lora")
    with held(tmp_path / "run"):
        assert finished(asked, together=2) == 2
    (tmp_path / "run" / "mine.txt").touch()
    assert finished(asked, together=2) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.fixture
def started_alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "INLAY_PATIENCE": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    return monkeypatch


@pytest.mark.parametrize(("number", "missing"), [(0, "processes 1, 2"), (1, "process 0")])
def test_processes_that_never_come_are_told_of(
    number: int, missing: str, started_alone: pytest.MonkeyPatch, tiny_bert: str, reviews_folder: str, capfd: Any
) -> None:
    started_alone.setenv("RANK", str(number))
    assert main(["train", tiny_bert, reviews_folder, "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("inlay: ")
    assert said.count("inlay: ") == 1
    assert f"{missing} did not come to 127.0.0.1:" in said
    assert "within 1 seconds" in said


def test_processes_that_torchrun_starts_again_do_not_meet_those_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of torchrun's agent has what those have left; its count of restarts may differ between machines."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in {**place, "INLAY_PATIENCE": "20"}.items():
        monkeypatch.setenv(name, value)
    found = set[str]()
    for _ in range(3):
        with ThreadPoolExecutor(3) as threads:
            (met,) = {each.place for each in threads.map(lambda own: meet(own, 3), (2, 1, 0))}
        found.add(met)
    assert len(found) == 3


@pytest.mark.parametrize("value", ["ten", "0", "nan"])
def test_a_patience_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_PATIENCE", value)
    with pytest.raises(SettingsError, match=f"INLAY_PATIENCE is {value}"):
        patience()
