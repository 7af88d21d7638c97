"""What runs a comparison's trials: processes of this machine, or a cluster (cluster.py).

A worker takes a trial through its connection, and sends the trial's events and at last its Outcome.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ...devices import environment_with
from ...formats.event import Event
from ...training.memory import available_memory_bytes
from . import worker
from .script import not_run_again

_MARGIN = 1.3  # a run's peak is up to a fifth above its plan
_CONTEXT_BYTES = 2**29  # of an accelerator, that a process takes beside its tensors
_FULL_BYTES = 12  # for each parameter, if a later run trains all of them: gradient and the optimizer's two moments


class Worker(Protocol):
    """A process or a task that runs trials."""

    @property
    def connection(self) -> Any:
        """What `multiprocessing.connection.wait` can wait for."""
        ...

    def stop(self) -> None:
        """Ask it to end: its run writes what it has come to."""

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after so long."""

    def kill(self) -> None: ...

    def exit_reason(self) -> str:
        """Say how it ended before it sent an Outcome: why its trial failed."""
        ...


class Executor(Protocol):
    """A place with room for some trials at a time."""

    jobs: int
    """Trials that it takes at a time; events may change that."""

    def on_event(self, event: Event) -> None:
        """Take note of an event of a trial that it runs."""
        ...

    def start(self) -> Worker: ...

    def close(self) -> None:
        """Let go of what it holds; no worker is left."""


@dataclass
class LocalExecutor:
    """Processes of this machine, one for each job, each with a share of the threads and on one of the accelerators."""

    jobs: int
    command: Sequence[str]
    most: int | None = None
    """Jobs that there may be as soon as a first run has told what memory it takes, if there is room for them, of the
    machine or of each accelerator. Several runs of one thread get more done than one run of several."""
    accelerators: int = 0
    """The accelerators of one kind that processes are to be spread over; 0: each takes the device of its settings."""
    _parameters: int = 0
    _started: list["ProcessWorker"] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        if event["event"] == "model":
            self._parameters = event["total_parameters"]
        elif event["event"] == "plan" and self.most is not None:
            each = int(_MARGIN * event["memory_bytes"]) + _FULL_BYTES * self._parameters
            if (free := event.get("free_bytes")) is None:
                self.jobs = min(self.most, 1 + available_memory_bytes() // each)
            else:
                self.jobs = min(self.most, max(1, self.accelerators) * max(1, free // (each + _CONTEXT_BYTES)))
            self.most = None

    def start(self) -> "ProcessWorker":
        import torch

        context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang, and cannot use CUDA
        here, there = context.Pipe()
        jobs = self.most or self.jobs
        threads = None if jobs == 1 else max(1, torch.get_num_threads() // jobs)
        self._started = [each for each in self._started if each.process.is_alive()]
        used = [each.accelerator for each in self._started]
        own = min(range(self.accelerators), key=used.count, default=None)
        sees = {} if own is None else environment_with(own)
        chosen = None if sees else own  # by its number, where a process cannot but see all
        process = context.Process(target=worker.main, args=(there, threads, tuple(self.command), chosen), daemon=True)
        with _environment(sees), not_run_again():
            process.start()
        there.close()
        self._started.append(ProcessWorker(process, here, own))
        return self._started[-1]

    def close(self) -> None:
        pass


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """Give these to the processes that are started in the block: libraries read them before anything can set them."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class ProcessWorker:
    """A process of this machine that runs trials."""

    process: BaseProcess
    connection: Any  # a Connection, on Windows a PipeConnection
    accelerator: int | None = None  # which of several it computes on

    def stop(self) -> None:
        self.process.terminate()  # SIGTERM, which a worker takes as an interruption

    def wait(self, seconds: float) -> None:
        self.process.join(seconds)

    def kill(self) -> None:
        self.process.kill()

    def exit_reason(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = ": the system ended it, most likely for want of memory" if name == "SIGKILL" else ""
            return f"its process ended with {name}{why}"
        return f"its process ended with exit code {code}"
