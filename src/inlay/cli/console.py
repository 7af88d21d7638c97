"""How a run looks while it goes on: a progress bar in a terminal, plain lines elsewhere, JSON lines for programs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TaskID, TextColumn

from ..show.units import bytes_text, seconds_text
from ..training.journal import Event, Watcher, sentence
from .safe_console import progress
from .screen import fitted, print_json

_PLAIN_EVERY_SECONDS = 10
_INDENT = " " * 8  # of what an event says, after its name


@contextmanager
def watching(json_lines: bool) -> Iterator[Watcher]:
    """Give a watcher that suits the output."""
    if json_lines:
        yield print_json
    elif sys.stdout.isatty():
        with _Bar() as bar:
            yield bar
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self.last_step = 0.0

    def __call__(self, event: Event) -> None:
        if event["event"] == "step":
            if time.monotonic() - self.last_step < _PLAIN_EVERY_SECONDS and event["step"] != event["steps"]:
                return
            self.last_step = time.monotonic()
        print(sentence(event), flush=True)


class _Bar:
    """Sentences scroll by above one line that says where the training is."""

    def __init__(self) -> None:
        self.progress = progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[now]}"),
        )
        self.task: TaskID | None = None
        self.loss = 0.0

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        if event["event"] == "step":
            self._move(event)
        else:
            style = {"failed": "bold red", "interrupted": "bold yellow", "finished": "bold green"}.get(event["event"])
            text = fitted(sentence(event), self.progress.console.width, _INDENT)
            self.progress.console.print(text, style=style, soft_wrap=True)

    def _move(self, event: Event) -> None:
        begins = self.task is None or event["step"] == 1  # a run that goes on begins at a later step
        self.loss = event["loss"] if begins else 0.9 * self.loss + 0.1 * event["loss"]
        now = (
            f"loss {self.loss:.3f}  {event['tokens_per_second']:,.0f} tokens/s  "
            f"{bytes_text(event['memory_bytes'])}  {seconds_text(event['seconds_left'])} left"
        )
        if self.task is None:
            self.task = self.progress.add_task("", total=event["steps"], now=now)
        self.progress.update(
            self.task, total=event["steps"], completed=event["step"], now=now
        )  # a run may train others
