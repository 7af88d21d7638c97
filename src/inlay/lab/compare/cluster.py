"""Trials on a Ray cluster, when one machine is not enough. https://docs.ray.io

A trial is a Ray task, which a thread of this process starts, listens to and speaks for, so that to the runner it is a
worker like any other. The machines share the working directory, with data and runs in it, and each has Inlay installed.
"""

import logging
import multiprocessing
import os
import platform
import signal
import socket
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...errors import SettingsError
from ...formats.event import Event
from .settings import CompareSettings
from .trial import Trial
from .worker import Outcome, failure

_POLL_SECONDS = 0.5
_KNOCK_SECONDS = 10.0


@dataclass
class Cluster:
    """A connection to a cluster, and what of it a trial gets."""

    jobs: int
    command: Sequence[str]
    share: dict[str, float]  # of a trial, as Ray counts: num_cpus, num_gpus
    _ray: Any

    @classmethod
    def connect(cls, comparison: CompareSettings, command: Sequence[str]) -> "Cluster":
        """Raise SettingsError if no cluster answers at the address."""
        assert comparison.cluster is not None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each use
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's, on coming versions of itself
            import ray  # pyright: ignore[reportMissingImports]

            try:
                _knock(comparison.cluster)
                before = signal.getsignal(signal.SIGTERM)
                ray.init(comparison.cluster, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, before)  # Ray puts a handler of its own there, for good
            except (OSError, ValueError) as problem:
                raise SettingsError(
                    f"--cluster {comparison.cluster}: no Ray cluster answers there ({_first_line(problem)}). `ray "
                    "start --head` starts one, and auto is the one that this machine belongs to"
                ) from problem
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        jobs, share = divided(machines, comparison.jobs, on_accelerators=comparison.device != "cpu")
        return cls(jobs, command, share, ray)

    def on_event(self, event: Event) -> None:
        pass

    def start(self) -> "TaskWorker":
        return TaskWorker(self._ray, self.share, tuple(self.command))

    def close(self) -> None:
        self._ray.shutdown()


def divided(
    machines: Sequence[dict[str, float]], jobs: int | None, *, on_accelerators: bool
) -> tuple[int, dict[str, float]]:
    """Return how many trials at a time, and what each gets: an accelerator where there are any, or else a machine."""
    accelerators = sum(machine.get("GPU", 0) for machine in machines) if on_accelerators else 0
    jobs = jobs or int(accelerators) or len(machines)
    cores = sum(machine["CPU"] for machine in machines) // jobs
    smallest = min(machine["CPU"] for machine in machines)  # a task does not stretch over machines
    share = {"num_cpus": max(1.0, min(cores, smallest))}
    return jobs, share | ({"num_gpus": min(1.0, accelerators / jobs)} if accelerators else {})


@dataclass
class TaskWorker:
    """One trial of a cluster, and the thread that speaks for it."""

    ray: Any
    share: dict[str, float]
    command: tuple[str, ...]
    connection: Any = field(init=False)
    task: Any = None  # the reference to its result
    reason: str = "it was never begun"

    def __post_init__(self) -> None:
        self.connection, there = multiprocessing.Pipe()
        self.thread = threading.Thread(target=self._speak, args=(there,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        if self.task is not None:
            self.ray.cancel(self.task)  # which the run takes as an interruption

    def wait(self, seconds: float) -> None:
        self.thread.join(seconds)

    def kill(self) -> None:
        if self.task is not None:
            self.ray.cancel(self.task, force=True)

    def exit_reason(self) -> str:
        return self.reason

    def _speak(self, there: Connection) -> None:
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
        from ray.util.queue import Empty, Queue  # pyright: ignore[reportMissingImports]

        try:
            trial: Trial = there.recv()
            trial.folder.parent.mkdir(parents=True, exist_ok=True)  # by which a machine knows that it shares it
            events = Queue(actor_options={"num_cpus": 0})
            remote = self.ray.remote(max_calls=1, max_retries=0, **self.share)(run_there)
            self.task = remote.remote(trial, events, os.getcwd(), self.command)
            ended = False
            while not ended:
                ended = bool(self.ray.wait([self.task], timeout=0)[0])  # before the last look for its events
                try:
                    while True:
                        there.send(events.get(timeout=None if ended else _POLL_SECONDS, block=not ended))
                except Empty:
                    pass
            there.send(Outcome(self.ray.get(self.task), ends=True))
        except RayError as problem:
            self.reason = f"the cluster: {type(problem).__name__}: {_first_line(problem)}"
        except (EOFError, BrokenPipeError):  # the runner is gone
            pass
        finally:
            there.close()


def run_there(trial: Trial, events: Any, folder: str, command: tuple[str, ...]) -> str | None:
    """Run the trial on a machine of the cluster; returns why it failed."""
    import torch
    from ray import get_runtime_context  # pyright: ignore[reportMissingImports]

    from ...training.shared_base import NoSharing

    runs = Path(folder, trial.folder).parent
    if not Path(folder).is_dir() or not runs.is_dir():
        return f"{platform.node()} of the cluster has no {runs}: its machines must share this directory and --out"
    os.chdir(folder)
    torch.set_num_threads(int(get_runtime_context().get_assigned_resources().get("CPU", 1)))
    return failure(trial, NoSharing(), events.put, command)


def _knock(address: str) -> None:
    """Raise OSError if nothing listens there, which Ray would find out after many minutes."""
    if address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0]
