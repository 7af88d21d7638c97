"""How a comparison looks while it goes on, and the table at its end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TaskID, TextColumn

from ..show.table import Table
from ..show.units import seconds_text
from ..training.journal import Event, Watcher
from .safe_console import console, progress
from .screen import print_json

if TYPE_CHECKING:
    from ..formats.summary import Metrics
    from ..lab.compare.result import ComparisonResult
    from ..lab.compare.table import Quantity, Spread

_STYLES = {"failed": "bold red", "finished": "green"}


@contextmanager
def watching_trials(json_lines: bool) -> Iterator[Watcher]:
    """Give a watcher that suits the output."""
    if json_lines:
        yield print_json
    elif sys.stdout.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _print


def sentence(event: Event) -> str | None:
    """Return the event in one line for people; None for what is in each run's own log."""
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


def print_result(result: "ComparisonResult") -> None:
    from ..lab.compare.tables import sequences_table

    out = console()
    out.print(_table(result))
    for row in result.table.rows:
        for seed, reason in row.failures:
            out.print(f"{row.label}, seed {seed} failed: {reason}", style="red")
    if result.sequences:
        out.print(sequences_table(result))
    if result.advice is not None:
        out.print(result.advice.text)
    print(f"\nreport  {result.folder}/report.html (beside it report.md, report.csv)")


def _table(result: "ComparisonResult") -> Table:
    """Return the score, what it cost and what was forgotten, with headings broken: a terminal has no room for all."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import methods_table, shown

    quantities = [q for q in shown(result.table) if q.key in (*COSTS, "forgetting")]
    found = methods_table(result.table, [result.table.score, *quantities], _text, failures=False)
    columns = [replace(column, name=column.name.replace(" ", "\n")) for column in found.columns]
    return replace(found, columns=columns)


def _text(quantity: "Quantity", found: "Spread") -> str:
    """Write a result with its deviation, and a cost without, for which a terminal has no room."""
    from ..lab.compare.table import COSTS
    from ..lab.compare.tables import with_deviation

    return quantity.text(found.mean) if quantity.key in COSTS else with_deviation(quantity, found)


def _score(metrics: "Metrics", score: str) -> str:
    from ..tasks.metric import METRICS

    metric, tuned = METRICS[score], metrics["test"] or metrics["tuned"]
    assert tuned is not None  # of a run that is finished
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
