"""Ctrl-C, a closed terminal, and the SIGTERM that clusters send: a run stops where it can go on from."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar, Self

from .. import processes

_Handler = Callable[[int, FrameType | None], object] | int | None
_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has neither this nor SIGQUIT
_DEFAULT = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    **{number: signal.SIG_DFL for number in (_HANG_UP, getattr(signal, "SIGQUIT", None)) if number is not None},
}


class Interrupts:
    """While entered, each of these signals raises KeyboardInterrupt at once. Inside `held` the first one waits, until
    `raise_waiting`; a second one does not. Inside `deferred` all of them wait.

    SIGHUP is never a second one: a terminal that closes sends several, and nobody is there to be impatient.

    A program that has a handler of its own, or ignores the signal, keeps that. So does every thread but the main one.
    """

    patient: ClassVar[bool] = False
    """Whether this process never breaks off a step: whoever started it does that, by killing it."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None):
        self.on_wait = on_wait
        self.holding = self.deferring = self.waiting = False
        self.replaced: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, default in _DEFAULT.items():
                if signal.getsignal(number) is default:
                    self.replaced[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        while self.replaced:
            signal.signal(*self.replaced.popitem())

    @contextmanager
    def held(self) -> Iterator[None]:
        before, self.holding = self.holding, True
        try:
            yield
        finally:
            self.holding = before

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what is being written come to its end."""
        before, self.deferring = self.deferring, True
        try:
            yield
        finally:
            self.deferring = before

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Let the block come to its end, and stop then if somebody has asked for that."""
        with self.held():
            yield
        self.raise_waiting()

    def raise_waiting(self) -> None:
        if processes.any_of(self.waiting):
            raise KeyboardInterrupt

    @property
    def breaks_off(self) -> bool:
        """Whether a second signal does not wait: what starts several processes sends it beside the terminal's own."""
        return not self.patient and processes.count() == 1

    def _received(self, number: int, _: object) -> None:
        if self.deferring:
            self.waiting = True
        elif not self.holding or (self.waiting and self.breaks_off and number != _HANG_UP):
            raise KeyboardInterrupt
        elif not self.waiting:
            self.waiting = True
            self.on_wait()
