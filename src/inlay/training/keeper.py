"""Keeps the checkpoint of a run: from time to time, and when it is interrupted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .. import processes
from ..errors import CheckpointError, ProcessLost
from ..launch import is_left_behind
from .checkpoint import RunIdentity, has_checkpoint, write_checkpoint
from .interrupts import Interrupts
from .journal import Journal
from .loop import Training


class Keeper:
    """The checkpoint of a run, written every so many minutes and when the run is interrupted."""

    def __init__(self, folder: Path, minutes: float, journal: Journal, identity: Callable[[], RunIdentity]):
        self.folder, self.minutes, self.journal, self.identity = folder, minutes, journal, identity
        self.interrupts = Interrupts(self._say_to_wait)
        self.training: Training | None = None
        self._whole = True  # whether the training is in a state that it can go on from
        self._kept = time.monotonic()

    @contextmanager
    def whole_step(self) -> Iterator[None]:
        """Let interruptions wait until the step is done, and told."""
        with self.interrupts.held():
            self._whole = False
            try:
                yield
            except ProcessLost:  # they are waited for before a step has changed anything
                self._whole = True
                raise
            self._whole = True

    def between_steps(self) -> None:
        """Stop here if somebody has asked for that or can no longer, and keep a checkpoint if it is time for one."""
        due = 0 < 60 * self.minutes <= time.monotonic() - self._kept
        stopped = self.interrupts.waiting or is_left_behind()
        asked, is_due = zip(*processes.gathered((stopped, due)), strict=True)
        if any(asked):
            raise KeyboardInterrupt
        if is_due[0]:  # by the clock of the first, which keeps it
            self.keep()
            self.interrupts.raise_waiting()

    def keep(self) -> bool:
        """Write a checkpoint; returns whether there is one now, be it from before because a step was broken off."""
        if self.training is not None and self._whole and self.training.progress.step:
            try:
                self.journal.check_folder()
                with self.interrupts.deferred():
                    self.journal.sync()  # what was told of earlier steps is not told again by a run that goes on here
                    write_checkpoint(self.folder, self.training, self.identity())
            except (OSError, SafetensorError, CheckpointError) as problem:
                self.journal.tell("note", text=f"the checkpoint could not be written: {problem}")
            self._kept = time.monotonic()
        return has_checkpoint(self.folder)

    def _say_to_wait(self) -> None:
        second = "; a second Ctrl-C or signal does not wait for it" if self.interrupts.breaks_off else ""
        self.journal.tell("note", text=f"stopping after this step{second}")
