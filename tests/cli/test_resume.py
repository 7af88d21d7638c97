"""inlay resume as a user calls it."""

import json
import shlex
from pathlib import Path

import pytest

from inlay.cli import main
from inlay.training import keeper as keeper_module


@pytest.fixture
def stopped(
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """A run of 16 steps that Ctrl-C has stopped after the fifth."""
    run = tmp_path / "my run"
    save = keeper_module.Keeper.between_steps

    def stop(keeper: keeper_module.Keeper) -> None:
        save(keeper)
        if keeper.training and keeper.training.progress.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeper_module.Keeper, "between_steps", stop)
        assert main(["train", tiny_bert, reviews_folder, "--epochs", "2", "--out", str(run)]) == 130
    shown = capsys.readouterr()
    assert f"go on with: inlay resume '{run}'" in shown.out
    assert shown.err == ""  # the run has said so on its screen
    return run


def test_what_an_interrupted_run_says_finishes_it(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(stopped)]) == 0
    shown = capsys.readouterr().out
    assert "resume  after step 5 of 16" in shown
    assert f"inlay predict {shlex.quote(str(stopped))}" in shown
    summary = json.loads((stopped / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["command"].startswith("inlay train")
    assert main(["resume", str(stopped)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_json_events_of_a_resumed_run_are_one_object_a_line(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(stopped), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(6, 17))
    assert events[-1]["event"] == "finished"
    written = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert written[-len(events) :] == events


def test_no_setting_can_be_changed(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    assert main(["resume", str(stopped), "--epochs", "4"]) == 2
    assert "unknown setting --epochs" in capsys.readouterr().err
    assert main(["resume"]) == 2
    assert "RUN is missing" in capsys.readouterr().err
    assert main(["resume", str(stopped.parent), "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert event["exit_code"] == 2
    assert "not the folder of a run" in event["text"]
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def test_a_run_that_can_go_on_is_not_trained_over(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(stopped / "run.yaml")]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
