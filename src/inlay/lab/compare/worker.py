"""A process that runs trials: one on the CPU; on an accelerator one after another, on a base that stays loaded."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from ...devices import is_accelerator, make_current, pick_device
from ...errors import CheckpointError, InlayError
from ...formats.files import write_json
from ...machine import refusals
from ...output import outliving_readers
from ...registries import register
from ...training.interrupts import Interrupts
from ...training.journal import Event, Watcher
from ...training.memory import available_memory_bytes
from ...training.shared_base import NoSharing, SharedBase
from .sequence import scores_on_earlier
from .task_files import load_task
from .trial import EARLIER, Trial


@dataclass(frozen=True)
class Outcome:
    """What a worker says last of a trial."""

    reason: str | None  # why it failed
    ends: bool  # the worker


def run_trial(trial: Trial, bases: NoSharing, watcher: Watcher, command: Sequence[str]) -> None:
    """Bring the trial's run to its end, going on with it if it was interrupted. Raises what `train` raises."""
    from ...training.run import resume, train

    for thing in trial.registered:
        register(thing)
    task = load_task(trial.task_file)
    try:
        resume(trial.folder, watcher, task=task)
    except CheckpointError:  # there is none, or it is of no use any more
        trial.clear()
        train(trial.settings, watcher, command, bases=bases, start=trial.start, task=task)
    if trial.earlier:
        write_json(trial.folder / EARLIER, scores_on_earlier(trial))


def main(connection: Connection, threads: int | None, command: Sequence[str], own: int | None = None) -> None:
    """Receive a Trial, send its events and at last its Outcome, until there are no more. With a number of its `own` the
    process computes on that one of several accelerators."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT"):  # a terminal sends them to all: the parent alone decides, by SIGTERM,
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    Interrupts.patient = True  # which a system that stops everything may have sent as well
    if threads is not None:
        torch.set_num_threads(threads)
    if own is not None:
        make_current(torch.device(pick_device("auto").type, own))
    bases, tell, ends = SharedBase(), _Line(connection), False
    with outliving_readers():
        try:
            while not ends:
                trial: Trial = connection.recv()
                tell.device = device = pick_device(trial.settings.device)
                reason = failure(trial, bases, tell, command)
                # On an accelerator the allocator tells what a run took. On the CPU it is the process, and what
                # libraries keep from one run (kernels made for each shape) would count as the next one's, by up to a
                # quarter.
                ends = not is_accelerator(device)
                connection.send(Outcome(reason, ends))
        except (KeyboardInterrupt, EOFError, BrokenPipeError):  # stopped, or the parent is gone
            pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is nothing left to interrupt


@dataclass
class _Line:
    """The way to the parent. When that is gone, nobody waits for the run, which is interrupted.

    What a run will take is told with what is free on its accelerator, if it has one, where its base is by then.
    """

    connection: Connection
    gone: bool = False
    device: torch.device | None = None

    def __call__(self, event: Event) -> None:
        if self.gone:
            return
        if event["event"] == "plan" and self.device is not None and is_accelerator(self.device):
            event = {**event, "free_bytes": available_memory_bytes(self.device)}
        try:
            self.connection.send(event)
        except OSError:
            self.gone = True
            raise KeyboardInterrupt from None


def failure(trial: Trial, bases: NoSharing, watcher: Watcher, command: Sequence[str]) -> str | None:
    """Return why the trial failed. Whatever it was, the comparison goes on, and this is the trial's row."""
    try:
        with refusals():
            run_trial(trial, bases, watcher, command)
    except InlayError as problem:
        return str(problem)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None
