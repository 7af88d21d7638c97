"""How a comparison looks while it goes on, and the table at its end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, TaskID, TextColumn
from rich.table import Table

from ..show.units import seconds_text
from ..training.journal import Event, Watcher
from .safe_console import console, progress
from .screen import print_json

_STYLES = {"failed": "bold red", "finished": "green"}


@contextmanager
def watching_trials(json_lines: bool) -> Iterator[Watcher]:
    """A watcher that suits the output."""
    if json_lines:
        yield print_json
    elif sys.stdout.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _print


def sentence(event: Event) -> str | None:
    """The event in one line for people; None for what is in each run's own log."""
    match event["event"]:
        case "compare":
            notes = "".join(f"\nnote     {note}" for note in event["notes"])
            search = f", of which {event['searching']} look for learning rates" if event["searching"] else ""
            return f"compare  {event['runs']} runs in {event['folder']}{search}{notes}"
        case "rates":
            found = ", ".join(f"{label} {rate:.3g}" for label, rate in event["learning_rates"].items())
            return f"rates    {found}: the best on valid of those tried"
        case "trial" if event["state"] != "begins":
            count = f"{event['number']}/{event['of']}"
            trial = event["trial"] + (f" ({event['tried_rate']:.3g})" if "tried_rate" in event else "")
            if event["state"] == "failed":
                return f"{count:>7}  {trial} failed: {event['reason']}"
            took = f" in {seconds_text(event['seconds'])}" if event["seconds"] else ", as before"
            left = f", {seconds_text(event['seconds_left'])} left" if event["seconds_left"] else ""
            return f"{count:>7}  {trial} {_score(event['metrics'], event['score'])}{took}{left}"
    return None


def print_result(result: Any) -> None:
    out = console()
    out.print(_table(result))
    for row in result.table.rows:
        for seed, reason in row.failures:
            out.print(f"{row.label}, seed {seed} failed: {reason}", style="red")
    if result.sequences:
        out.print(_table_of_sequences(result))
    if result.advice is not None:
        out.print(result.advice.text)
    print(f"\nreport  {result.folder}/report.html (beside it report.md, report.csv)")


def _table(result: Any) -> Table:
    from ..lab.compare.export import shown
    from ..lab.compare.table import COSTS

    table = Table(box=None, pad_edge=False)
    columns = [result.table.score, *(q for q in shown(result.table) if q.key in (*COSTS, "forgetting"))]
    table.add_column("method")
    for quantity in columns:
        table.add_column(quantity.name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in result.table.rows:
        if row.runs:
            table.add_row(row.label, *(_cell(row.spreads.get(q.key), q) for q in columns))
    return table


def _table_of_sequences(result: Any) -> Table:
    from ..lab.compare.export import sequence_text, way_text

    table = Table(box=None, pad_edge=False)
    for name in ("method", "tasks", "average forgetting", "backward transfer"):
        table.add_column(name, justify="left" if name in ("method", "tasks") else "right")
    for row in result.sequences:
        if row.matrix is None:
            table.add_row(row.label, way_text(row), f"failed: {row.reason}", style="red")
        else:
            found = (sequence_text(row, which, result.table.score) for which in ("forgetting", "backward transfer"))
            table.add_row(row.label, way_text(row), *found)
    return table


def _cell(found: Any, quantity: Any) -> str:
    """With its deviation if it is a result; costs without, as a terminal has no room for all: the page has them."""
    from ..lab.compare.table import COSTS, spread_text

    if found is not None and quantity.key in COSTS:
        return quantity.text(found.mean)
    return spread_text(found, quantity.text)


def _score(metrics: dict[str, Any], score: str) -> str:
    from ..tasks.metric import METRICS

    metric, tuned = METRICS[score], metrics["test"] or metrics["tuned"]
    return f"{metric.label} {metric.text(tuned[score])} on {'test' if metrics['test'] else metrics['split']}"


def _print(event: Event) -> None:
    if text := sentence(event):
        print(text, flush=True)


class _Bars:
    """One line for each run under way, one for the whole; what is finished scrolls by above."""

    def __init__(self) -> None:
        self.progress = progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[now]}"),
        )
        self.whole: TaskID | None = None
        self.running: dict[str, TaskID] = {}
        self.left_at = (0.0, 0.0)  # seconds that were left, and when

    def __enter__(self) -> "_Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "compare":
                self.whole = self.progress.add_task("all runs", total=event["runs"], now="")
            case "trial" if event["state"] == "begins":
                self.running[event["trial"]] = self.progress.add_task(event["trial"], total=None, now="")
            case "trial":
                self._finish(event)
            case "step" if event["trial"] in self.running:
                now = f"loss {event['loss']:.3f}  {seconds_text(event['seconds_left'])} left"
                self.progress.update(
                    self.running[event["trial"]], total=event["steps"], completed=event["step"], now=now
                )
                self._say_what_is_left()
        if text := sentence(event):
            style = _STYLES.get(event.get("state", ""), "")
            self.progress.console.print(text, style=style, soft_wrap=True)

    def _finish(self, event: Event) -> None:
        if (task := self.running.pop(event["trial"], None)) is not None:
            self.progress.remove_task(task)
        if event["seconds_left"] is not None:
            self.left_at = (event["seconds_left"], time.monotonic())
        if self.whole is not None:
            self.progress.update(self.whole, completed=event["number"])
        self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        seconds, since = self.left_at
        left = seconds - (time.monotonic() - since)
        if self.whole is not None and since and left > 0:
            self.progress.update(self.whole, now=f"about {seconds_text(left)} left")
