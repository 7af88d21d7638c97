"""The report's page: what the run's files say, arranged for the template beside this file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from markupsafe import Markup

from ..errors import DataError
from ..formats.event import Event
from ..formats.files import write_text
from ..formats.read import guarded
from ..formats.run_files import RunFiles, read_run
from ..formats.summary import Summary
from ..outside import printable
from ..show.budget import budget_sentence, budget_table
from ..show.divided import divided_text
from ..show.forgetting import forgetting_section
from ..show.page import templates
from ..show.plots import Figure, Points
from ..show.table import Column, Table
from ..show.units import UNKNOWN, bytes_text, excess_text, seconds_text, text_or_unknown
from ..tasks import TASKS
from ..tasks.metric import METRICS
from ..tasks.naive import NaiveBaseline
from . import figures
from .decisions import decisions
from .memory import memory_section
from .tiles import spans, tiles


def write_report(run: Path, summary: Summary | None = None) -> Path:
    """Write `report.html` into the run's folder, whole. Raises DataError if the folder has no readable summary.json, in
    whose place a run that is about to write it gives its `summary`."""
    path = run / "report.html"
    write_text(path, render(read_run(run, summary)))
    return path


def render(files: RunFiles) -> str:
    """Return the page as text."""
    return printable(templates("report").get_template("report.html.j2").render(_page(files)))


def _page(files: RunFiles) -> dict[str, object]:
    summary = files.summary
    with guarded(files.folder, "files of a run", error=DataError):
        task = TASKS[summary["task"]]
        own = task.page(summary, files.predictions)
    facts = ("status", "reason", "model", "data", "method", "command", "seed", "device", "dtype")
    return {name: summary.get(name) for name in facts} | {
        "versions": summary.get("versions") or {},
        "tiles": (shown := tiles(summary, own.tiles)),
        "spans": spans(len(shown)),
        "forgetting": forgetting_section(found) if (found := summary.get("forgetting")) else None,
        "budget": budget_sentence(budget) if (budget := summary.get("budget")) else None,
        "budget_table": budget_table(budget, METRICS[task.main_score].label, METRICS[task.main_score].text)
        if budget
        else None,
        "verdict": own.verdict,
        "task_section": Markup(own.section),  # noqa: S704
        "large_plots": _large_plots(files, task.main_score, own.naive),
        "optimizer_plots": _optimizer_plots(files.steps),
        "resource_plots": _resource_plots(files.steps, (summary.get("plan") or {}).get("memory_bytes")),
        "last_step": files.steps[-1] if files.steps else None,
        "not_finite": [event["step"] for event in files.steps if not _is_finite(event.get("loss", 0.0))],
        "decisions": decisions(summary.get("decided") or {}),
        "costs": costs_table(summary),
        "memory": memory_section(summary),
        "divided": [divided_text(**each) for each in summary.get("divided") or ()],
        "asked": files.asked,
        "resolved": files.resolved,
        "damaged_lines": files.damaged_lines,
    }


def _large_plots(files: RunFiles, score: str, naive: NaiveBaseline | None) -> list[Figure]:
    best_step = files.summary.get("best_step")
    level = figures.Level(naive.name, naive.scores[score]) if naive and naive.scores.get(score) is not None else None
    train, evaluated = _points(files.steps, "loss"), _points(files.evaluations, "loss")
    scores = [] if score == "loss" else _points(files.evaluations, score)
    plots = []
    if train or evaluated:
        went_back = [event["step"] for event in files.summary.get("went_back") or ()]
        of_loss = level if score == "loss" else None
        plots.append(figures.loss_plot(train, evaluated, best_step, of_loss, went_back))
    if scores:
        plots.append(figures.score_plot(METRICS[score].label, METRICS[score].unit, scores, best_step, level))
    return plots


def _optimizer_plots(steps: Sequence[Event]) -> list[Figure]:
    drawn = {"learning_rate": figures.learning_rate_plot, "gradient_norm": figures.gradient_norm_plot}
    return [draw(points) for key, draw in drawn.items() if (points := _points(steps, key))]


def _resource_plots(steps: Sequence[Event], planned_bytes: int | None) -> list[Figure]:
    speed, memory = _points(steps, "tokens_per_second"), _points(steps, "memory_bytes")
    plots = [figures.speed_plot(speed)] if speed else []
    return plots + ([figures.memory_plot(memory, planned_bytes)] if memory else [])


def _points(events: Sequence[Event], key: str) -> Points:
    """Return the finite values by step: a run that failed may have logged others."""
    values = [(event["step"], event.get(key)) for event in events]
    return [(step, value) for step, value in values if _is_finite(value)]


def _is_finite(value: float | None) -> TypeGuard[float]:
    """Tell whether it is a number; JSON has null for what is not."""
    return value is not None and math.isfinite(value)


def costs_table(summary: Summary) -> Table:
    """Return what was planned beside what it was. A run that did not end took a part of the time planned."""
    plan, ended = summary.get("plan") or {}, summary["status"] == "finished"
    time = "Training time" if ended else "Training time (planned for all of it)"
    rows = [
        (time, plan.get("seconds"), summary.get("train_seconds"), seconds_text),
        ("Whole run", None, summary.get("wall_seconds"), seconds_text),
        ("Peak memory", plan.get("memory_bytes"), summary.get("peak_memory_bytes"), bytes_text),
        ("Tokens per second", None, summary.get("tokens_per_second"), "{:,.0f}".format),
        ("Optimizer steps", None, summary.get("steps"), str),
    ]

    def difference(name: str, planned: float | None, actual: float | None) -> str:
        return UNKNOWN if name == time and not ended else excess_text(planned, actual)

    return Table(
        columns=[Column(name=name, right=bool(name)) for name in ("", "planned", "actual", "difference")],
        rows=[
            [name, text_or_unknown(text, planned), text_or_unknown(text, actual), difference(name, planned, actual)]
            for name, planned, actual, text in rows
        ],
    )
