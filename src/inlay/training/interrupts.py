"""Ctrl-C, and the SIGTERM that clusters send: a run stops where it can go on from."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

_DEFAULT = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupts:
    """While entered, either signal raises KeyboardInterrupt at once. Inside `held` the first one waits, until
    `raise_waiting`; a second one does not.

    A program that has a handler of its own, or ignores the signal, keeps that. So does every thread but the main one.
    """

    def __init__(self, on_wait: Callable[[], None]):
        self.on_wait = on_wait
        self.holding = self.waiting = False
        self.replaced: dict[signal.Signals, Any] = {}

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
        self.holding = True
        try:
            yield
        finally:
            self.holding = False

    def raise_waiting(self) -> None:
        if self.waiting:
            raise KeyboardInterrupt

    def _received(self, *_: object) -> None:
        if not self.holding or self.waiting:
            raise KeyboardInterrupt
        self.waiting = True
        self.on_wait()
