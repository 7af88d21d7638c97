"""Trials in worker processes."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay import devices
from inlay.data import formats
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.lab.compare import comparison, executor, worker
from inlay.lab.compare.comparison import compare
from inlay.lab.compare.executor import LocalExecutor
from inlay.lab.compare.runner import Runner
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.trial import Budget, Trial, plain_trials
from inlay.tasks import classify
from inlay.training.checkpoint import read_checkpoint

from ..counted import counted_calls
from .fakes import contender, write_classifier


def trials_of(model: str, data: str, folder: Path, *labels: str, **changes: Any) -> list[Trial]:
    comparison = CompareSettings(model=model, data=DataSettings(path=data), dtype="float32", **changes)
    return plain_trials(comparison, [contender(label) for label in labels], folder, {}, Budget(1, 32))


def changed(trial: Trial, **changes: Any) -> Trial:
    return dataclasses.replace(trial, settings=dataclasses.replace(trial.settings, **changes))


@pytest.fixture
def workers_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers from a process that has imported what they need, which each would take 6 seconds for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers.models.bert.modeling_bert", "inlay.training.run", worker.__name__])
    monkeypatch.setattr(executor.multiprocessing, "get_context", lambda _: context)


@pytest.mark.usefixtures("workers_forked")
def test_a_trial_that_fails_is_told_and_the_others_go_on(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    bad, good = trials_of(tiny_bert, reviews_folder, tmp_path, "lora", "bitfit")
    bad = changed(bad, learning_rate=1e30)
    events: list[dict[str, Any]] = []
    with Runner(LocalExecutor(2, ("inlay", "compare")), events.append) as runner:
        runner.total = 2
        runner.run([bad, good])
    assert list(runner.failures) == [bad.name]
    assert "learning rate" in runner.failures[bad.name]
    assert good.is_finished
    summary = good.summary()
    assert summary is not None
    assert summary["command"] == "inlay compare"
    ends = {e["trial"]: e for e in events if e["event"] == "trial" and e["state"] != "begins"}
    assert ends[bad.name]["state"] == "failed"
    assert ends[good.name]["metrics"] == summary["metrics"]
    assert {e["number"] for e in ends.values()} == {1, 2}
    assert {"step", "evaluate", "finished"} <= {e["event"] for e in events if e.get("trial") == good.name}
    (expected,) = (e for e in events if e["event"] == "expected")
    assert expected["runs"] == 2
    assert expected["seconds"] > 0
    in_all = {e["number"]: e["seconds_in_all"] for e in ends.values()}
    assert in_all[1] is None
    assert in_all[2] > ends[good.name]["seconds"]

    later = Trial(label="lora", settings=good.settings, earlier=(bad.folder,))
    with Runner(LocalExecutor(1, ()), lambda _: None) as runner:
        runner.failures[bad.name] = "loss is not finite"
        runner.run([changed(later, out=str(tmp_path / "later"))])
    assert runner.failures["later"] == f"it follows {bad.name}, which failed"


@pytest.mark.usefixtures("workers_forked")
@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_comparison_that_is_ended_lets_its_trials_write_checkpoints(
    times: int, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    """A cluster ends a trial by SIGTERM; a second one waits for that."""
    (trial,) = trials_of(tiny_bert, reviews_folder, tmp_path, "lora")
    trial = changed(trial, epochs=50.0, patience=0)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] >= 20:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Runner(LocalExecutor(1, ()), stop) as runner:
        runner.run([trial])
    assert signal.getsignal(signal.SIGTERM) is before
    summary = trial.summary()
    assert summary is not None
    assert summary["status"] == "interrupted"
    assert 20 <= summary["steps"] < 400
    assert read_checkpoint(trial.folder).progress["step"] == summary["steps"]


def test_a_worker_without_a_parent_ends_its_run_in_order() -> None:
    """What the trial then is, is an interrupted one."""
    here, there = multiprocessing.Pipe()
    tell = worker._Line(there)
    tell({"event": "step"})
    assert here.recv() == {"event": "step"}
    here.close()
    with pytest.raises(KeyboardInterrupt):
        tell({"event": "step"})
    tell({"event": "interrupted"})  # for which nobody waits


def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.multiprocessing, "get_context", None)  # no process can start
    (trial,) = trials_of("builtin:minilm", "builtin:tickets", tmp_path, "lora")
    write_classifier(trial, 0.9, 100, True)
    events: list[dict[str, Any]] = []
    with Runner(LocalExecutor(1, ()), events.append) as runner:
        runner.run([trial])
    assert [(e["trial"], e["state"]) for e in events] == [("lora-0", "was finished")]
    assert runner.failures == {}


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_does_not_count(status: str, tmp_path: Path) -> None:
    (trial,) = trials_of("builtin:minilm", "builtin:tickets", tmp_path, "lora")
    assert not trial.is_finished
    write_classifier(trial, 0.9, 100, True)
    assert trial.is_finished
    path = trial.folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    assert not trial.is_finished


def test_a_run_with_other_settings_does_not_pass_for_this_one(tmp_path: Path) -> None:
    (trial,) = trials_of("builtin:minilm", "builtin:tickets", tmp_path, "lora")
    trial.folder.mkdir(parents=True)
    run_yaml = "model: builtin:minilm\ndata:\n  path: builtin:tickets\nmethod:\n  name: lora\nout: elsewhere\n"
    (trial.folder / "run.yaml").write_text(run_yaml + "epochs: 1\nmax_length: 32\ndtype: float32\n")
    trial.check_same_settings()
    (trial.folder / "run.yaml").write_text(run_yaml + "epochs: 3\nmax_length: 32\ndtype: float32\n")
    with pytest.raises(SettingsError, match=r"holds a run with other settings \(epochs was 3, is 1\)"):
        trial.check_same_settings()


@pytest.mark.parametrize(
    ("free_gib", "jobs"),
    [
        (0.5, 1),  # of 1.24 GiB that another run could take
        (3.0, 3),
        (100.0, 4),
    ],
)
def test_runs_share_the_threads_as_far_as_there_is_memory(
    free_gib: float, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "available_memory_bytes", lambda: int(free_gib * 2**30))
    here = LocalExecutor(1, (), most=4)
    here.on_event({"event": "model", "total_parameters": 22_700_000})
    assert here.jobs == 1
    here.on_event({"event": "plan", "memory_bytes": 750 << 20})
    assert here.jobs == jobs
    monkeypatch.setattr(executor, "available_memory_bytes", lambda: 0)
    here.on_event({"event": "plan", "memory_bytes": 750 << 20})
    assert here.jobs == jobs  # decided once


def test_jobs_that_are_asked_for_are_had_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "available_memory_bytes", lambda: 0)
    here = LocalExecutor(3, ())
    here.on_event({"event": "model", "total_parameters": 22_700_000})
    here.on_event({"event": "plan", "memory_bytes": 750 << 20})
    assert here.jobs == 3


class Started:
    """Stands for processes: what they are started with, and whether they are alive."""

    def __init__(self, args: tuple[Any, ...] = (), **_: Any):
        self.own, self.alive = args[-1] if args else None, True

    def is_alive(self) -> bool:
        return self.alive

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_each_run_gets_an_accelerator_that_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(Pipe=lambda: (Started(), Started()), Process=Started)
    monkeypatch.setattr(executor.multiprocessing, "get_context", lambda _: context)
    two: Any = LocalExecutor(2, (), accelerators=2)
    first, second = two.start(), two.start()
    assert [first.process.own, second.process.own] == [0, 1]
    first.process.alive = False
    assert two.start().process.own == 0  # whose worker has ended
    assert two.start().process.own in (0, 1)  # more jobs than accelerators share them
    alone: Any = LocalExecutor(2, ())
    assert alone.start().process.own is None


@pytest.mark.parametrize(
    ("kind", "hip", "name", "before", "seen"),
    [
        ("cuda", None, "CUDA_VISIBLE_DEVICES", None, ["0", "1"]),
        ("cuda", None, "CUDA_VISIBLE_DEVICES", "5,GPU-8a", ["5", "GPU-8a"]),  # of which this process sees two
        ("cuda", "6.2", "HIP_VISIBLE_DEVICES", "3,2", ["3", "2"]),
        ("xpu", None, "ZE_AFFINITY_MASK", None, ["0", "1"]),
        ("toy", None, "CUDA_VISIBLE_DEVICES", "7", ["7", "7"]),  # whose list nobody knows
    ],
)
def test_a_process_sees_its_own_accelerator_alone(
    kind: str, hip: str | None, name: str, before: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str | None] = []
    context = SimpleNamespace(Pipe=lambda: (Started(), Started()), Process=Started)
    monkeypatch.setattr(executor.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(Started, "start", lambda _: found.append(os.environ.get(name)))
    monkeypatch.setattr(devices, "accelerator", lambda: SimpleNamespace(type=kind))
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    two: Any = LocalExecutor(2, (), accelerators=2)
    chosen = [two.start().process.own for _ in range(2)]
    assert found == seen
    assert chosen == ([0, 1] if kind == "toy" else [None, None])
    assert os.environ.get(name) == before


@pytest.mark.parametrize(
    ("free_gib", "accelerators", "jobs"),
    [(1.0, 2, 2), (4.0, 2, 4), (80.0, 2, 8), (4.0, 1, 2), (4.0, 0, 2)],
)
def test_several_runs_share_an_accelerator_if_they_fit(free_gib: float, accelerators: int, jobs: int) -> None:
    """One takes 1.24 GiB at most, and half a GiB for its context."""
    here = LocalExecutor(max(1, accelerators), (), most=8, accelerators=accelerators)
    here.on_event({"event": "model", "total_parameters": 22_700_000})
    here.on_event({"event": "plan", "memory_bytes": 750 << 20, "free_bytes": int(free_gib * 2**30)})
    assert here.jobs == jobs


def test_a_run_tells_what_is_free_where_its_base_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "available_memory_bytes", lambda device: 7 if device.type == "cuda" else 0)
    here, there = multiprocessing.Pipe()
    for device, more in ((torch.device("cuda"), {"free_bytes": 7}), (torch.device("cpu"), {}), (None, {})):
        worker._Line(there, device=device)({"event": "plan"})
        assert here.recv() == {"event": "plan"} | more


def test_a_worker_computes_on_its_own_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(worker, "make_current", chosen.append)
    monkeypatch.setattr(worker, "pick_device", lambda _: torch.device("xpu"))
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker.Interrupts, "patient", False)

    class Closed:
        def recv(self) -> Any:
            raise EOFError

    for own in (1, None):
        worker.main(Closed(), None, (), own)  # pyright: ignore[reportArgumentType]
    assert chosen == [torch.device("xpu", 1)]


@pytest.mark.parametrize(
    ("asked", "jobs", "total", "wanted"),
    [("auto", None, 9, (3, 3)), ("auto", None, 2, (2, 3)), ("cuda:1", None, 9, (1, 0)), ("auto", 1, 9, (1, 3))],
)
def test_a_comparison_takes_every_accelerator_of_the_machine(
    asked: str, jobs: int | None, total: int, wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = torch.device("cuda", 1) if asked == "cuda:1" else torch.device("cuda")
    monkeypatch.setattr(comparison, "pick_device", lambda _: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    settings = CompareSettings(model="m", data=DataSettings(path="d"), device=asked, jobs=jobs)
    here: Any = comparison._executor(settings, total, ())
    assert (here.jobs, here.accelerators) == wanted


def test_by_default_all_threads_are_shared_out(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs: the first alone, until it has said what it takes; then two at a time, each on one of two threads.
    None of them reads the data, which by then are gone."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    data = tmp_path / "data"
    shutil.copytree(reviews_folder, data)
    comparison = CompareSettings(
        model=tiny_bert, data=DataSettings(path=str(data)), out=str(tmp_path / "c"), epochs=0.5, forgetting=False
    )
    running, most = set(), 0

    def watch(event: dict[str, Any]) -> None:
        nonlocal most
        if event["event"] == "compare":
            shutil.rmtree(data)
        if event["event"] == "trial":
            (running.add if event["state"] == "begins" else running.discard)(event["trial"])
            most = max(most, len(running))

    result = compare(comparison, [contender("lora"), contender("bitfit"), contender("ia3")], watch)
    assert most == 2
    assert "Times are those of runs on 1 thread each; several runs at a time slow one another down." in result.notes
    assert result.failed == 0
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"runs", "report.html", "report.md", "report.csv"}


def test_a_comparison_reads_and_tokenizes_its_data_once(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the methods are still to be chosen, of which some leave less room to the text than others."""
    opened = counted_calls(monkeypatch, formats, "open_source")
    tokenized = counted_calls(monkeypatch, classify, "tokenize_split")

    def stop(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(
            CompareSettings(model=tiny_bert, data=DataSettings(path=reviews_folder), out=str(tmp_path / "c")), (), stop
        )
    assert opened == [reviews_folder]
    assert len(tokenized) == len(list(Path(reviews_folder).iterdir()))
    assert list((tmp_path / "c").iterdir()) == []
