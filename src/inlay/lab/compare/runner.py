"""Runs a comparison's trials, by workers, and tells how far it is.

A worker that dies, for want of memory say, costs its trial and no more: that is a failed trial with this reason, and
another worker takes its place.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait

from ...formats.event import Event
from ...training.interrupts import Interrupts
from ...training.journal import Watcher
from .executor import Executor, Worker
from .table import main_metric
from .task_files import TaskFiles
from .trial import Trial
from .worker import Outcome

_PATIENCE_SECONDS = 300.0  # for an interrupted worker to write what its run has come to


@dataclass
class _Worker:
    worker: Worker
    trial: Trial | None = None
    began: float = 0.0


@dataclass
class Runner:
    """Use as a context: leaving it ends the workers, whose runs write checkpoints. Signals that would end the process
    leave it too."""

    executor: Executor
    watcher: Watcher
    task_files: TaskFiles | None = None
    failures: dict[str, str] = field(default_factory=dict)  # trial name -> reason
    total: int = 0  # trials in all, for the count that is shown
    finished: int = 0
    _waiting: deque[Trial] = field(default_factory=deque)
    _workers: list[_Worker] = field(default_factory=list)
    _interrupts: Interrupts = field(default_factory=Interrupts)
    _began: float = field(default_factory=time.monotonic)
    _seconds: dict[str, float] = field(default_factory=dict)  # label -> what its latest run took or is said to take

    def __enter__(self) -> "Runner":
        self._interrupts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with self._interrupts.deferred():
            for each in self._workers:
                each.worker.stop()
            end = time.monotonic() + _PATIENCE_SECONDS
            for each in self._workers:
                _hear_out(each.worker, end)
                each.worker.kill()
            self._workers.clear()
            self.executor.close()
        self._interrupts.__exit__()

    def run(self, trials: Iterable[Trial]) -> None:
        """Finish every trial, or put it into `failures`. Those that are finished already are left alone."""
        for trial in trials:
            if trial.is_finished:
                self._done(trial, None, seconds=None)
            else:
                self.failures.pop(trial.name, None)
                self._waiting.append(trial)
        while self._waiting or self._busy:
            while len(self._busy) < self.executor.jobs and (trial := self._next()) is not None:
                self._give(trial)
            busy = {each.worker.connection: each for each in self._busy}
            for connection in wait(list(busy)) if busy else ():  # of nothing, `wait` would wait for ever
                self._hear(busy[connection])

    @property
    def _busy(self) -> list[_Worker]:
        return [each for each in self._workers if each.trial]

    def _next(self) -> Trial | None:
        """Return the first trial whose needs are met. One whose needs have failed fails with them."""
        unfinished = {trial.folder for trial in (*self._waiting, *(each.trial for each in self._busy)) if trial}
        for trial in list(self._waiting):
            if unfinished.intersection(trial.needs):
                continue
            self._waiting.remove(trial)
            unfinished.discard(trial.folder)
            if failed := next((need.name for need in trial.needs if need.name in self.failures), None):
                self._done(trial, f"it follows {failed}, which failed", seconds=0.0)
                continue
            return trial
        return None

    def _give(self, trial: Trial) -> None:
        to = next((each for each in self._workers if not each.trial), None)
        if to is None:
            to = _Worker(self.executor.start())
            self._workers.append(to)
        to.trial, to.began = trial, time.monotonic()
        self.watcher({"event": "trial", **_about(trial), "state": "begins", "reason": None})
        task = self.task_files and self.task_files.path_for(trial.settings.data)
        to.worker.connection.send(replace(trial, task_file=task))

    def _hear(self, speaker: _Worker) -> None:
        assert speaker.trial is not None
        trial = speaker.trial
        try:
            heard = speaker.worker.connection.recv()
        except (EOFError, ConnectionResetError):
            speaker.worker.wait(_PATIENCE_SECONDS)
            heard = Outcome(speaker.worker.exit_reason(), ends=True)
        if not isinstance(heard, Outcome):
            self.executor.on_event(heard)
            self.watcher(heard | _about(trial))
            if heard["event"] == "plan":
                self._expect(trial, time.monotonic() - speaker.began + heard["seconds"])
            return
        speaker.trial = None
        if heard.ends:
            speaker.worker.wait(_PATIENCE_SECONDS)  # its memory is free before another trial wants some
            self._workers.remove(speaker)
        self._done(trial, heard.reason, time.monotonic() - speaker.began)

    def _expect(self, trial: Trial, seconds: float) -> None:
        """Take in what a run will take by its own plan; the first tells how long all will take."""
        tells = not self._seconds
        self._seconds.setdefault(trial.label, seconds)
        if tells:
            self.watcher({"event": "expected", "seconds": self._seconds_left(), "runs": self.total - self.finished})

    def _done(self, trial: Trial, reason: str | None, seconds: float | None) -> None:
        """Tell that a trial is finished; `seconds` is None if it was before."""
        self.finished += 1
        if reason is not None:
            self.failures[trial.name] = reason
        elif seconds is not None:
            self._seconds[trial.label] = seconds
        summary = trial.summary() if reason is None else None
        metrics = summary["metrics"] if summary else None
        if metrics and trial.searches:
            metrics = {**metrics, "test": None}  # nobody is to choose by it
        self.watcher(
            {
                "event": "trial",
                **_about(trial),
                "state": "failed" if reason is not None else "was finished" if seconds is None else "finished",
                "reason": reason,
                "number": self.finished,
                "of": self.total,
                "seconds": seconds,
                "seconds_left": self._seconds_left(),
                "seconds_in_all": time.monotonic() - self._began if self.finished == self.total else None,
                "metrics": metrics,
                "score": main_metric(summary).name if summary else None,
            }
        )

    def _seconds_left(self) -> float | None:
        """Estimate from what runs of the same methods took, or say that they will take; None while nothing is known."""
        if not self._seconds:
            return None
        average = sum(self._seconds.values()) / len(self._seconds)
        now = time.monotonic()
        left = [self._seconds.get(trial.label, average) for trial in self._waiting]
        left += [
            max(0.0, self._seconds.get(each.trial.label, average) - (now - each.began))
            for each in self._busy
            if each.trial
        ]
        later = max(0, self.total - self.finished - len(left)) * average
        return (sum(left) + later) / self.executor.jobs


def _hear_out(worker: Worker, end: float) -> None:
    """Take a worker's events until it has ended, or till then: it would wait if nobody did."""
    try:
        while (left := end - time.monotonic()) > 0:
            if worker.connection.poll(left):
                worker.connection.recv()
    except (EOFError, OSError):
        pass
    worker.wait(max(0.0, end - time.monotonic()))


def _about(trial: Trial) -> Event:
    about = {"trial": trial.name, "label": trial.label, "seed": trial.seed}
    return about | ({"tried_rate": trial.settings.learning_rate} if trial.searches else {})
