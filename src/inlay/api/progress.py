"""How a run or a comparison shows itself while it goes on, in a terminal and in a notebook."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress

from ..lab.compare import events
from ..outside import shown_lines
from ..show.units import bytes_text
from ..tasks.naive import warning_of
from ..training import journal
from ..training.journal import Event, Watcher
from ..under_way import shown_by
from .displays import Bar, Display, NotebookDisplay, TerminalDisplay

_WHOLE = "all runs"
_AFTER = "scoring and measuring"
_SMOOTHING = 0.9  # of the loss that is shown
_UNDER_WAY = "under way"
_WORTH_SHOWING = 1.0  # seconds that something is under way


@contextmanager
def watching(progress: bool | Watcher) -> Iterator[Watcher]:
    """Give a watcher: the one that is given, none with False, and else one that shows bars if somebody can see them."""
    console = Console(highlight=False, markup=False, emoji=False)
    if callable(progress):
        yield progress
    elif progress and console.is_jupyter:
        display = NotebookDisplay()
        try:
            with showing(display) as watcher:
                yield watcher
        finally:
            display.close()
    elif progress and console.is_terminal:
        with Progress(*TerminalDisplay.columns(), console=console, transient=True) as bars:
            with showing(TerminalDisplay(bars)) as watcher:
                yield watcher
    else:
        yield lambda _: None


@contextmanager
def showing(display: Display) -> Iterator["ProgressWatcher"]:
    """Give a watcher that shows events, and show what is under way in the block beside them."""
    watcher = ProgressWatcher(display)
    with shown_by(watcher.tell_part):
        yield watcher


def sentence(event: Event) -> str | None:
    """Return in words what happened in a run by itself or in a comparison.

    None for a step, which moves a bar, and for what happened in a run of a comparison, which is in that run's log.
    """
    if event["event"] in events.KINDS:
        return events.sentence(event)
    return None if "trial" in event or event["event"] == "step" else journal.sentence(event)


@dataclass
class ProgressWatcher:
    """Shows a run by itself with a bar, or a comparison with one for each run under way and one for the whole."""

    display: Display
    losses: dict[str, float] = field(default_factory=dict)  # smoothed, by trial; a run by itself is the trial ""
    whole: Bar | None = None
    last_step: int | None = None  # of a run by itself, once it has begun
    under_way_since: float = 0.0
    shows_under_way: bool = False

    def __call__(self, event: Event) -> None:
        trial = event.get("trial", "")
        match event["event"]:
            case "compare":
                self.whole = Bar(_WHOLE, of=event["runs"])
                self.display.show(_WHOLE, self.whole)
            case "expected":
                self._show_whole(event["seconds"])
            case "trial" if event["state"] == "begins":
                self.losses[trial] = 0.0
                self.display.show(trial, Bar(trial))
            case "trial":
                self._finish(event)
            case "step" if not trial or trial in self.losses:
                self._move(trial, event)
            case "evaluate" if not trial and event["step"] == self.last_step:
                self.display.show("", Bar(f"step {event['step']}", event["step"], event["step"], _AFTER))
        if text := sentence(event):
            state = "warned" if warning_of(event) else event.get("state", event["event"])
            self.display.say(shown_lines(text), state)

    def tell_part(self, what: str, done: int, parts: int) -> None:
        """Show how far something is that has no events, once it has taken a moment, until it is done."""
        now = time.monotonic()
        if done == 0:
            self.under_way_since = now
        seconds = now - self.under_way_since
        if done == parts and self.shows_under_way:
            self.display.remove(_UNDER_WAY)
            self.shows_under_way = False
        elif 0 < done < parts and seconds > _WORTH_SHOWING:
            self.display.show(_UNDER_WAY, Bar(what, done, parts, ends=now + seconds / done * (parts - done)))
            self.shows_under_way = True

    def _move(self, trial: str, event: Event) -> None:
        begins = not self.losses.get(trial) or event["step"] == 1  # a run that goes on begins at a later step
        loss = event["loss"] if begins else _SMOOTHING * self.losses[trial] + (1 - _SMOOTHING) * event["loss"]
        self.losses[trial] = loss
        now = [f"loss {loss:.3f}", journal.left_text(event)]
        if not trial:
            self.last_step = event["steps"]
            now[1:1] = [f"{event['tokens_per_second']:,.0f} tokens/s", bytes_text(event["memory_bytes"])]
        text = trial or f"step {event['step']}/{event['steps']}"
        if trial and event["step"] == event["steps"]:
            now[1:] = [_AFTER]
        self.display.show(trial, Bar(text, event["step"], event["steps"], "  ".join(now)))

    def _finish(self, event: Event) -> None:
        if self.losses.pop(event["trial"], None) is not None:
            self.display.remove(event["trial"])
        if self.whole is not None:
            self.whole.done = event["number"]
        self._show_whole(event["seconds_left"])

    def _show_whole(self, left: float | None) -> None:
        """Move the bar of all runs, which have so many seconds left; None if that is not known."""
        if self.whole is None:
            return
        if self.whole.done == self.whole.of:
            self.whole.now, self.whole.ends = "writing the report", None
        elif left is not None:
            self.whole.ends = time.monotonic() + left
        self.display.show(_WHOLE, self.whole)
