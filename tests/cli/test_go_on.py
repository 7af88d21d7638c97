"""inlay train --go-on: one command that begins a run, goes on with it, or finds it done."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.formats.files import held
from inlay.training import run_output
from inlay.training.going_on import go_on

from ..training.resume.runs import StopAt, assert_same, short


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the runs."""
    monkeypatch.setattr(run_output, "write_report", lambda *_: None)


@pytest.fixture
def command(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> list[str]:
    return ["train", tiny_bert, reviews_folder, "--epochs", "0.5", "--no-forgetting", "--out", str(tmp_path / "run")]


def as_it_is(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_same_command_begins_goes_on_and_is_done(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"epochs": 0.5, "forgetting": False}
    go_on(short(tiny_bert, reviews_folder, tmp_path / "whole", **asked))
    settings = short(tiny_bert, reviews_folder, tmp_path / "run", **asked)
    for _ in range(2):  # the second time there is no checkpoint, and it begins anew
        with pytest.raises(KeyboardInterrupt):
            go_on(settings, StopAt(event="plan"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        go_on(settings, StopAt(event="step", step=2))
    events: list[dict[str, Any]] = []
    assert go_on(settings, events.append)["status"] == "finished"
    assert [event["step"] for event in events if event["event"] == "resume"] == [2]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    (tmp_path / "run" / "notes.txt").unlink()
    assert_same(tmp_path / "run", tmp_path / "whole")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert lines.count('"event": "resume"') == 1
    assert lines.count('"event": "data"') == 2  # of those before the last beginning nothing is left

    before = as_it_is(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()  # what a kill at the very end leaves
    (tmp_path / "run" / "checkpoints" / "last.safetensors").write_bytes(b"")
    (tmp_path / "run" / ".report.html.1.unfinished").write_bytes(b"")
    events.clear()
    summary = go_on(settings, events.append)
    assert summary["status"] == "finished"
    assert summary["folder"] == str(tmp_path / "run")
    assert [event["text"] for event in events] == [f"{tmp_path / 'run'} is finished: there is nothing to do"]
    assert as_it_is(tmp_path / "run") == before


def test_a_folder_below_home_is_found_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell leaves `--out=~/run` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = [*command[:-1], "~/run", "--go-on"]
    assert [main(at_home), main(at_home)] == [0, 0]
    assert "is finished: there is nothing to do" in capsys.readouterr().out


def test_a_finished_run_is_told_with_exit_0(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--go-on"]) == 0
    first = capsys.readouterr().out
    assert main([*command, "--go-on"]) == 0
    second = capsys.readouterr().out
    assert "is finished: there is nothing to do" in second
    assert "inlay predict" in second
    assert "step 1" in first
    assert "step 1" not in second
    assert main([*command, "--go-on", "--json"]) == 0
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert event["event"] == "note"


def test_a_run_with_other_settings_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    before = as_it_is(tmp_path / "run")
    assert main([*command, "--go-on", "--seed", "1", "--method.rank", "2"]) == 2
    said = capsys.readouterr().err
    assert "run holds a run with other settings (method was {'name': 'lora'}, is {'name': 'lora', 'rank': 2}; " in said
    assert "seed was the default, is 1)" in said
    assert as_it_is(tmp_path / "run") == before


def test_without_it_a_folder_that_is_taken_says_what_it_would_do(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = short(tiny_bert, reviews_folder, tmp_path / "run", epochs=0.5, forgetting=False)

    def refusal() -> str:
        before = as_it_is(tmp_path / "run")
        assert main(command) == 2
        assert as_it_is(tmp_path / "run") == before
        return capsys.readouterr().err.partition("is not empty; name another folder, so that nothing is lost")[2]

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert refusal() == "\n"
    (tmp_path / "run" / "notes.txt").unlink()
    with pytest.raises(KeyboardInterrupt):
        go_on(settings, StopAt(event="plan"))
    assert refusal() == "; or --go-on begins the unfinished run in it anew, as it has no checkpoint\n"
    with pytest.raises(KeyboardInterrupt):
        go_on(settings, StopAt(event="step", step=2))
    assert refusal() == "; or --go-on, with the settings of the unfinished run in it, goes on with that\n"
    go_on(settings)
    assert refusal() == "; in it is a finished run, which --go-on would leave as it is\n"


def test_other_rows_are_refused_and_nothing_begins_anew(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reviews_folder, tmp_path / "data")
    settings = short(tiny_bert, str(tmp_path / "data"), tmp_path / "run", epochs=0.5, forgetting=False)
    with pytest.raises(KeyboardInterrupt):
        go_on(settings, StopAt(event="step", step=2))
    path = tmp_path / "data" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    before = as_it_is(tmp_path / "run")
    with pytest.raises(ValueError, match="data has other rows"):
        go_on(settings)
    assert as_it_is(tmp_path / "run") == before


def test_a_run_that_is_under_way_is_left_alone(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path / "run"):
        assert main([*command, "--go-on"]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    assert not as_it_is(tmp_path / "run")


def test_what_a_killed_process_has_begun_to_write_is_no_run(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.yaml.1.unfinished").write_text("mod")
    assert main([*command, "--go-on"]) == 0
    assert not list((tmp_path / "run").rglob("*.unfinished"))


def test_the_folder_must_be_named_and_hold_a_run_or_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command[:-2], "--go-on"]) == 2
    assert "--go-on needs --out" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    assert main([*command, "--go-on"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
