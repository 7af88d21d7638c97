"""When checkpoints are written, and what a failure or a kill leaves of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inlay.errors import CheckpointError, DoesNotFit, TrainingFailed
from inlay.tasks.classify import Classify
from inlay.training import checkpoint as checkpoint_module
from inlay.training import checkpoint_file as checkpoint_file_module
from inlay.training import keeper as keeper_module
from inlay.training.checkpoint import CHECKPOINT, read_checkpoint
from inlay.training.run import resume, train

from .runs import StopAt, assert_same, evaluations, interrupted, short, told


def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which checkpoints are written."""
    steps: list[int] = []
    write = keeper_module.write_checkpoint

    def noted(folder: Path, training: Any, about: Any) -> None:
        steps.append(training.progress.step)
        write(folder, training, about)

    monkeypatch.setattr(keeper_module, "write_checkpoint", noted)
    return steps


@pytest.mark.parametrize(("minutes", "expected"), [(10.0, []), (0.0, []), (1e-9, list(range(1, 10)))])
def test_a_run_writes_checkpoints_as_often_as_it_is_asked_to(
    minutes: float,
    expected: list[int],
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = written(monkeypatch)
    out = tmp_path / "run"
    train(short(dropping_bert, few_reviews, out, checkpoint_minutes=minutes))
    assert found == expected
    assert not (out / "checkpoints").exists()


def test_a_killed_run_goes_on_from_its_last_regular_checkpoint(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later evaluations have left a better adapter and half a line behind; neither may stay."""
    asked = short(dropping_bert, few_reviews, tmp_path, checkpoint_minutes=1e-9, seed=3)
    train(replace(asked, out=str(tmp_path / "whole")))
    assert evaluations(tmp_path / "whole")[6, False]["best"]
    run = tmp_path / "run"
    copied = tmp_path / "copied.safetensors"

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:  # its checkpoint is not written yet
            copied.write_bytes((run / CHECKPOINT).read_bytes())
        if event["event"] == "step" and event["step"] == 8:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(replace(asked, out=str(run)), kill)
    assert not (run / "summary.json").exists()
    copied.replace(run / CHECKPOINT)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "finished"}\n{"event": "step", "st')
    (run / "adapter" / ".adapter_config.json.1.unfinished").write_text("{")
    (run / ".adapter.1.unfinished").mkdir()
    (run / ".adapter.1.unfinished" / "adapter_config.json").write_text("{")
    best: list[bytes] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "step" and not best:
            best.append((run / "adapter" / "adapter_model.safetensors").read_bytes())

    after = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    summary = resume(run, look)
    assert summary["steps"] == 9
    assert best != [after]  # again that of step 3, not of step 6
    lines = (run / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]  # without the half one
    assert sum(e["event"] == "finished" for e in events) == 1
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 10))  # each once
    assert [e["step"] for e in events if e["event"] == "evaluate" and e["step"]] == [3, 6, 9]
    kept = [line for line in lines if line.endswith("}")]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert_same(run, tmp_path / "whole")


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_run(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper_module, "write_checkpoint", full)
    out = tmp_path / "run"
    assert train(short(dropping_bert, few_reviews, out, checkpoint_minutes=1e-9))["status"] == "finished"
    assert "the checkpoint could not be written: [Errno 28] No space left" in (out / "log.txt").read_text()
    with pytest.raises(KeyboardInterrupt):
        train(short(dropping_bert, few_reviews, tmp_path / "other"), StopAt(event="step", step=4))
    assert "begin anew" in told(tmp_path / "other")["reason"]


def test_an_interruption_while_a_checkpoint_is_written_leaves_the_one_before(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(short(dropping_bert, few_reviews, tmp_path), tmp_path / "run", event="step", step=4)
    save = checkpoint_file_module.save_file

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata=metadata)
        with path.open("r+b") as file:
            file.truncate(1000)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_file_module, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        resume(run, StopAt(event="step", step=6))
    assert [path.name for path in (run / "checkpoints").iterdir()] == [CHECKPOINT.name]
    assert read_checkpoint(run).progress["step"] == 4


def test_a_failure_leaves_no_checkpoint_to_fail_again_from(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path)
    run = interrupted(asked, tmp_path / "run", event="step", step=4)
    with monkeypatch.context() as patched:
        patched.setattr(Classify, "loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
        with pytest.raises(TrainingFailed, match="loss is nan"):
            resume(run)
    assert not (run / "checkpoints").exists()
    assert told(run)["status"] == "failed"
    with pytest.raises(CheckpointError, match=r"has no checkpoint to go on from: .*loss is nan.*; begin anew"):
        resume(run)


def test_without_memory_nothing_is_advertised(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    run = interrupted(short(dropping_bert, few_reviews, tmp_path), tmp_path / "run", event="step", step=4)
    with monkeypatch.context() as patched:
        restore = checkpoint_module.Checkpoint.restore

        def then_fail(*arguments: Any) -> None:
            restore(*arguments)
            patched.setattr(Classify, "loss", exhausted)

        patched.setattr(checkpoint_module.Checkpoint, "restore", then_fail)
        with pytest.raises(DoesNotFit, match="^out of memory"):
            resume(run)
    assert told(run)["reason"].startswith("out of memory")
    assert "resume" not in told(run)["reason"]
    assert told(run)["status"] == "failed"
