"""How a run or a comparison looks while it goes on: bars in a terminal, plain lines elsewhere, JSON for programs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ..errors import InlayError, InterruptTold
from ..formats.event import Event, Watcher
from .safe_console import progress
from .screen import print_json

_PLAIN_EVERY_SECONDS = 10


@contextmanager
def watching(json_lines: bool) -> Iterator[Watcher]:
    """Give a watcher that suits the output. Raises InterruptTold for an interruption that a run tells of itself."""
    told, why = False, ""

    def watch(event: Event) -> None:
        nonlocal told, why
        watcher(event)
        if event["event"] == "failed" and "trial" not in event:
            why = event["text"]
        told = told or (event["event"] == "interrupted" and "trial" not in event)  # a comparison has more to say

    try:
        with _watcher(json_lines) as watcher:
            yield watch
    except KeyboardInterrupt as stopped:
        raise (InterruptTold() if told else stopped) from None
    except InlayError as problem:
        # Standard error has it as well, unless both come to one terminal.
        both = sys.stdout.isatty() and sys.stderr.isatty()
        problem.seen = both and not json_lines and why.startswith(str(problem))
        raise


@contextmanager
def _watcher(json_lines: bool) -> Iterator[Watcher]:
    """Give what shows each event."""
    if json_lines:
        yield print_json
    elif sys.stdout.isatty():
        with _bars() as watcher:
            yield watcher
    else:
        yield _Lines()


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show in a terminal how far is what takes a while in the block and has no events."""
    with _bars() if sys.stdout.isatty() else nullcontext():
        yield


@contextmanager
def _bars() -> Iterator[Watcher]:
    from ..api.displays import TerminalDisplay
    from ..api.progress import showing

    bars = progress(*TerminalDisplay.columns())  # which begin when one is shown: before, they are an empty line
    try:
        with showing(TerminalDisplay(bars)) as watcher:
            yield watcher
    finally:
        bars.stop()


class _Lines:
    """Prints what happened, and of the steps of a run by itself one every few seconds."""

    def __init__(self) -> None:
        self.last_step = 0.0

    def __call__(self, event: Event) -> None:
        from ..api.progress import sentence

        text = self._step(event) if event["event"] == "step" and "trial" not in event else sentence(event)
        if text:
            print(text, flush=True)

    def _step(self, event: Event) -> str | None:
        if time.monotonic() - self.last_step < _PLAIN_EVERY_SECONDS and event["step"] != event["steps"]:
            return None
        self.last_step = time.monotonic()
        from ..training.journal import sentence

        return sentence(event)
