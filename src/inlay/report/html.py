"""The report's page: what the run's files say, arranged for the template beside this file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard, cast

from markupsafe import Markup

from ..errors import DataError
from ..formats.event import Event
from ..formats.files import write_text
from ..formats.read import guarded
from ..formats.run_files import RunFiles, read_run
from ..formats.summary import Summary, kept_start, planned_seconds
from ..outside import printable
from ..show.budget import budget_sentence, budget_table
from ..show.divided import divided_text
from ..show.forgetting import forgetting_section
from ..show.page import templates
from ..show.peak import peak_text
from ..show.plots import Figure, Points
from ..show.table import Column, Table
from ..show.units import UNKNOWN, bytes_text, excess_text, seconds_text, signed, text_or_unknown
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
    if "planned_steps" not in summary:  # of an earlier version, whose events say it
        of_events = next((event["steps"] for event in files.steps if "steps" in event), None)
        summary = cast(Summary, {**summary, "planned_steps": of_events})
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
        "notes": files.notes,
        "task_section": Markup(own.section),  # noqa: S704
        "large_plots": _large_plots(files, task.main_score, own.naive),
        "optimizer_plots": _optimizer_plots(files.steps),
        "resource_plots": _resource_plots(files.steps, summary),
        "last_step": files.steps[-1] if files.steps else None,
        "not_finite": [event["step"] for event in files.steps if not _is_finite(event.get("loss", 0.0))],
        "decisions": decisions(summary.get("decided") or {}),
        "costs": costs_table(summary),
        "peak": peak_sentence(summary),
        "memory": memory_section(summary),
        "divided": [divided_text(**each) for each in summary.get("divided") or ()],
        "asked": files.asked,
        "resolved": files.resolved,
        "damaged_lines": files.damaged_lines,
    }


def _large_plots(files: RunFiles, score: str, naive: NaiveBaseline | None) -> list[Figure]:
    best_step = files.summary.get("best_step") or (0 if kept_start(files.summary) else None)
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


def _resource_plots(steps: Sequence[Event], summary: Summary) -> list[Figure]:
    planned, peak = (summary.get("plan") or {}).get("memory_bytes"), summary.get("peak_memory_bytes")
    speed, memory = _points(steps, "tokens_per_second"), _points(steps, "memory_bytes")
    plots = [figures.speed_plot(speed)] if speed else []
    return plots + ([figures.memory_plot(memory, planned, peak)] if memory else [])


def _points(events: Sequence[Event], key: str) -> Points:
    """Return the finite values by step: a run that failed may have logged others."""
    values = [(event["step"], event.get(key)) for event in events]
    return [(step, value) for step, value in values if _is_finite(value)]


def _is_finite(value: float | None) -> TypeGuard[float]:
    """Tell whether it is a number; JSON has null for what is not."""
    return value is not None and math.isfinite(value)


def peak_sentence(summary: Summary) -> str | None:
    """Say when the peak was reached, beside the plot of what is taken between the steps; None if it is not known."""
    peak, longest = summary.get("peak_memory_bytes"), summary.get("longest_row")
    if peak is None or (when := peak_text(summary.get("raised_peak"), peak)) is None:
        return None
    in_step = summary["raised_peak"][-1]["stage"] in ("trial", "training")
    row = f"; the largest batch is padded to its longest row of {longest:,} tokens" if longest and in_step else ""
    return f"The peak of {bytes_text(peak)} was reached {when}{row}. The plot shows what is taken after each step."


def costs_table(summary: Summary) -> Table:
    """Return what was planned beside what it was. The time planned is that of the steps that were taken."""
    plan = summary.get("plan") or {}
    planned_steps, steps, planned = summary.get("planned_steps"), summary.get("steps"), planned_seconds(summary)
    early = planned_steps is not None and steps is not None and steps < planned_steps
    time = f"Training time, {steps:,} of {planned_steps:,} planned steps" if early else "Training time"
    peak, memory = summary.get("peak_memory_bytes"), plan.get("memory_bytes")
    if planned_steps is None or steps is None:  # of an earlier version
        fewer = UNKNOWN
    else:
        fewer = "none" if steps == planned_steps else signed(steps - planned_steps, 0)
    taken = summary.get("train_seconds")
    rows = [
        (time, planned, taken, seconds_text, excess_text(planned, taken)),
        ("Peak memory", memory, peak, bytes_text, excess_text(memory, peak)),
        ("Optimizer steps", planned_steps, steps, "{:,}".format, fewer),
        ("Whole run", None, summary.get("wall_seconds"), seconds_text, UNKNOWN),
        ("Tokens per second", None, summary.get("tokens_per_second"), "{:,.0f}".format, UNKNOWN),
    ]
    return Table(
        columns=[Column(name=name, right=bool(name)) for name in ("", "planned", "actual", "difference")],
        rows=[
            [name, text_or_unknown(text, planned), text_or_unknown(text, actual), difference]
            for name, planned, actual, text, difference in rows
        ],
    )
