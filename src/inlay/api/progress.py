"""How a run or a comparison shows itself while it goes on: a bar in a terminal or a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..show.units import seconds_text
from ..training.journal import Event, Watcher, sentence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_TOLD = ("data", "method", "plan", "evaluate", "forgetting", "note", "failed", "interrupted", "finished")


@contextmanager
def watching(progress: bool | Watcher) -> Iterator[Watcher]:
    """Give a watcher: the one that is given, none with False, and else a bar if somebody can see it."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if callable(progress):
        yield progress
    elif progress and (console.is_terminal or console.is_jupyter):
        yield from _bar(console)
    else:
        yield lambda _: None


def _bar(console: "Console") -> Iterator[Watcher]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[now]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        yield _watcher(bars)


def _watcher(bars: "Progress") -> Watcher:
    running: dict[str, TaskID] = {}  # bars by trial; a run by itself is the trial ""

    def watch(event: Event) -> None:
        trial = event.get("trial", "")
        match event["event"]:
            case "step":
                if trial not in running:
                    running[trial] = bars.add_task(trial or "training", total=event["steps"], now="")
                now = f"loss {event['loss']:.3f}  {seconds_text(event['seconds_left'])} left"
                bars.update(running[trial], completed=event["step"], total=event["steps"], now=now)
            case "trial" if event["state"] != "begins":
                if trial in running:
                    bars.remove_task(running.pop(trial))
                bars.console.print(f"{event['number']}/{event['of']}  {trial} {event['state']}")
            case kind if not trial and kind in _TOLD:
                bars.console.print(sentence(event), soft_wrap=True)

    return watch
