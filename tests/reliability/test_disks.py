"""Real disks that refuse: full, read-only, gone in mid-run. Only the superuser can mount some of them."""

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.errors import DiskFailed, InlayError
from inlay.training import run_output
from inlay.training.run import resume, train
from inlay.training.settings import RunSettings

from ..training.resume.runs import assert_same, short, told
from .test_writes import few_reviews, plain_report

__all__ = ["few_reviews", "plain_report"]  # fixtures


@pytest.fixture
def asked(tiny_bert: str, few_reviews: str, tmp_path: Path) -> RunSettings[Any]:
    return short(tiny_bert, few_reviews, tmp_path, epochs=2, forgetting=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
            pytest.skip("mounting a disk is for the superuser")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def at_step(step: int, do: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            do()

    return watch


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_disk_that_fills_up(asked: RunSettings[Any], small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    train(replace(asked, out=str(tmp_path / "whole")))
    disk = small_disk("size=4m")
    run = disk / "run"
    asked = replace(asked, out=str(run), checkpoint_minutes=1e-9)
    with pytest.raises(DiskFailed, match=r"No space left on device.*go on with: inlay resume") as failed:
        train(asked, at_step(3, lambda: fill(disk)))
    assert failed.value.exit_code == 4
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    (disk / "filler").unlink()
    assert resume(run)["status"] == "finished"
    assert_same(run, tmp_path / "whole")


def test_a_disk_that_is_too_small_from_the_beginning(
    asked: RunSettings[Any], small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("size=4k")
    run = str(disk / "run")
    code = main(["train", asked.model, asked.data.path, "--epochs", "1", "--no-forgetting", "--out", run])
    shown = capsys.readouterr()
    assert code == 4
    assert "No space left on device" in shown.err
    assert "bug" not in shown.err


@pytest.mark.parametrize("verb", ["train", "compare", pytest.param("merge", marks=pytest.mark.slow)])
def test_a_disk_that_cannot_be_written(
    verb: str,
    asked: RunSettings[Any],
    small_disk: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    if verb == "merge":
        train(replace(asked, out=str(run)))
    disk = small_disk("ro")
    monkeypatch.setattr("inlay.training.shared_base.load_onto", None)  # no weights are loaded
    monkeypatch.setattr("inlay.tasks.task.Task.load", None)
    arguments = {
        "train": [asked.model, asked.data.path, "--out", str(disk / "run")],
        "compare": [asked.model, asked.data.path, "--methods", "lora", "bitfit", "--out", str(disk / "compared")],
        "merge": [str(run), str(disk / "merged")],
    }
    assert main([verb, *arguments[verb]]) == 2
    shown = capsys.readouterr()
    assert re.search("Read-only file system|cannot be written to", shown.err)
    assert str(disk) in shown.err


def test_a_run_on_a_disk_that_cannot_be_written_any_more_is_left_alone(
    asked: RunSettings[Any], small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("size=4m")
    run = disk / "run"
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(run)), at_step(2, lambda: (_ for _ in ()).throw(KeyboardInterrupt)))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert main(["resume", str(run)]) == 2
    assert "Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize("parents", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_folder_that_is_removed_in_mid_run(parents: bool, asked: RunSettings[Any], tmp_path: Path) -> None:
    """What the run holds in memory is written where it was, and goes on from there."""
    train(replace(asked, out=str(tmp_path / "whole")))
    run = tmp_path / "runs" / "run"
    remove = run.parent if parents else run
    with pytest.raises(
        DiskFailed, match=r"run: .*removed while.*the adapter of step 2.*is kept.*inlay resume"
    ) as failed:
        train(replace(asked, out=str(run)), at_step(3, lambda: shutil.rmtree(remove)))
    assert failed.value.exit_code == 4
    assert told(run)["status"] == "failed"
    assert {path.name for path in run.iterdir()} >= {"run.yaml", "resolved.yaml", "adapter", "checkpoints"}
    assert resume(run)["status"] == "finished"
    adapter = "adapter/adapter_model.safetensors"
    assert (run / adapter).read_bytes() == (tmp_path / "whole" / adapter).read_bytes()
    assert told(run) == told(tmp_path / "whole")


def test_a_folder_that_another_run_has_taken_is_left_alone(asked: RunSettings[Any], tmp_path: Path) -> None:
    run = tmp_path / "run"

    def take() -> None:
        run.rename(tmp_path / "moved")
        run.mkdir()
        (run / "theirs").write_text("theirs")

    with pytest.raises(DiskFailed, match="nothing could be kept"):
        train(replace(asked, out=str(run)), at_step(3, take))
    assert [path.name for path in run.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    "limit", [pytest.param(n, marks=[pytest.mark.slow] * (n != 3000)) for n in (0, 300, 3000, 30_000)]
)
def test_files_that_may_not_grow_further(limit: int, asked: RunSettings[Any], tmp_path: Path) -> None:
    """A quota, as the system itself enforces it, on whatever library writes."""
    run = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    try:
        with pytest.raises(InlayError, match="File too large") as failed:
            train(replace(asked, out=str(run)), at_step(3, lower))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.exit_code == 4
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_report_can_be_made_again(
    asked: RunSettings[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28), "report.html")

    events: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        patched.setattr(run_output, "write_report", full)
        assert train(replace(asked, out=str(run)), events.append)["status"] == "finished"
    assert f"make it later with: inlay eval {run} --report" in " ".join(e.get("text", "") for e in events)
    assert not (run / "report.html").exists()
    assert main(["eval", str(run), "--report"]) == 0
    assert capsys.readouterr().out == f"report  {run}/report.html\n"
    assert "<html" in (run / "report.html").read_text()
    assert main(["eval", str(run), "--report", "--split", "test"]) == 2
    assert "leave out split" in capsys.readouterr().err
    assert main(["eval", str(run / "adapter"), "--report"]) == 2
    assert "name the folder of a run" in capsys.readouterr().err
