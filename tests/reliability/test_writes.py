"""Every write of a run fails, once and for good: the run says so, and goes on later as if nothing had happened."""

import gc
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from inlay.errors import CheckpointError, InlayError
from inlay.formats.files import check_free
from inlay.training import run_output
from inlay.training.checkpoint import CHECKPOINT
from inlay.training.run import resume, train
from inlay.training.settings import RunSettings

from ..tiny_models import write_reviews
from ..training.resume.runs import assert_same, short
from .full_disk import FullDisk

_METHODS = ("lora", "full", "adalora", "p-tuning")
_IN_CI = 3  # writes of one method, drawn by a fixed seed, and its ends


@dataclass
class Case:
    asked: RunSettings[Any]
    whole: Path  # what becomes of the run if all goes well
    writes: list[str]


@pytest.fixture(autouse=True)
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that takes no time: it is one write, like the real one."""
    monkeypatch.setattr(run_output, "write_report", lambda run, _: run_output.write_text(run / "report.html", "<p>"))


@pytest.fixture(autouse=True)
def _half_the_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The power does not fail here, so nothing waits for the disk, and no run searches the libraries for garbage."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def few_reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = Path(write_reviews(tmp_path_factory.mktemp("few")))
    (folder / "test.jsonl").unlink()
    for split, count in (("train", 32), ("valid", 8)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    return str(folder)


@pytest.fixture(scope="module")
def case_of(tiny_bert: str, few_reviews: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Four steps, two evaluations and a checkpoint after each step."""

    def make(method: str) -> Case:
        folder = tmp_path_factory.mktemp("whole")
        asked = short(tiny_bert, few_reviews, folder, method, epochs=2, forgetting=False, checkpoint_minutes=1e-9)
        counted = FullDisk(folder / "counted")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                run_output, "write_report", lambda run, _: run_output.write_text(run / "report.html", "<p>")
            )
            train(replace(asked, out=str(folder / "whole")))
            counted.install(patched)
            train(replace(asked, out=str(counted.folder)))
        return Case(asked, folder / "whole", counted.names)

    return make


def valid_json(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check_files(run: Path) -> None:
    """Whatever is there is valid and whole."""
    for path in run.rglob("*.json"):
        valid_json(path.read_text())
    for path in run.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            valid_json(line)
    for name in ("metrics.jsonl", "log.txt"):
        assert not (run / name).exists() or (run / name).read_text().endswith("\n") or not (run / name).stat().st_size


def fail(case: Case, run: Path, number: int, for_good: bool) -> str:
    """Let the write with this number fail; returns how that went, when all of it was right."""
    disk, events = FullDisk(run, number, for_good), []
    with pytest.MonkeyPatch.context() as patched:
        disk.install(patched)
        try:
            train(replace(case.asked, out=str(run)), events.append)
            said = None
        except InlayError as problem:  # anything else is a bug
            said = problem
    check_files(run)
    summary = valid_json((run / "summary.json").read_text()) if (run / "summary.json").exists() else None
    if said is None:
        assert summary is not None
        assert summary["status"] == "finished"
        notes = " ".join(event["text"] for event in events if event["event"] == "note")
        failed = disk.names[number].split()
        # a link becomes a copy, an exchange of two folders two renames, and what the log lacks comes with its next line
        passed_over = failed[0] in ("link", "exchange") or failed[1] in ("metrics.jsonl", "log.txt")
        assert "No space left" in notes or passed_over, failed
        if (run / "report.html").exists() and not for_good:
            assert_same(run, case.whole)
        return "finished, and says what is missing"
    assert said.exit_code == 4
    assert "No space left on device" in str(said)
    if summary is not None:
        assert summary["status"] == "failed"
        assert "No space left on device" in summary["reason"]
        assert summary["reason"] in (str(said), events[-1].get("text"))
    elif not for_good:
        assert not (run / "run.yaml").exists(), "the run had begun, and has no summary"
    if not (run / "run.yaml").exists():
        check_free(run, "the same command can be given again, for")
    kept = (run / CHECKPOINT).is_file()
    assert kept == ("inlay resume" in str(said))
    there_was_one = number > next(i for i, name in enumerate(case.writes) if name.startswith("replace checkpoints"))
    assert kept or not there_was_one
    assert kept or for_good or not any(event["event"] == "step" for event in events)
    if kept:
        assert resume(run)["status"] == "finished"
        assert_same(run, case.whole)
        return "failed, and was resumed to the same bytes"
    with pytest.raises(CheckpointError):
        resume(run)
    return "failed before there was a checkpoint, which resume says"


def try_all(case: Case, numbers: list[int], tmp_path: Path) -> dict[str, int]:
    """How often it went how. Raises, when all were tried, if any went wrong."""
    found: dict[str, int] = {}
    wrong = []
    for number in numbers:
        for for_good in (False, True):
            run = tmp_path / "run"
            try:
                how = fail(case, run, number, for_good)
                found[how] = found.get(how, 0) + 1
            except Exception as problem:
                problem.add_note(f"write {number}: {case.writes[number]}, {'for good' if for_good else 'once'}")
                print(f"{problem.__notes__[-1]}: {problem}")
                wrong.append(problem)
            shutil.rmtree(run, ignore_errors=True)
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of {2 * len(numbers)}", wrong)
    return found


def test_some_writes_fail(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of("lora")
    assert len(case.writes) > 100, case.writes
    syncs = [i for i, name in enumerate(case.writes) if name == "fsync ."]
    ends = {
        syncs[0],
        case.writes.index("write metrics.jsonl"),
        syncs[-1],
    }  # a run that has hardly begun; one that is over
    numbers = ends | set(random.Random(0).sample(range(len(case.writes)), _IN_CI))
    found = try_all(case, sorted(numbers), tmp_path)
    assert len(found) >= 2, found


@pytest.mark.slow
@pytest.mark.parametrize("method", _METHODS)
def test_every_write_fails(method: str, case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of(method)
    found = try_all(case, list(range(len(case.writes))), tmp_path)
    print(f"\n{method}: {len(case.writes)} writes, each once and for good: {found}")
