"""The page of a plan: what each method takes, as a table and as bars of its parts, and what makes it fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..outside import printable
from ..show.memory_parts import BESIDE, PARTS, memory_bar
from ..show.page import label, templates
from ..show.table import Column, Table
from ..show.units import bytes_text, count_text, seconds_text, text_or_unknown
from ..training.planning import Planned, PlanResult

_NEAR = 1.5  # a limit that is further away than this, in longest bars, is told and not drawn


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Every method's memory as a bar, with a line at what there is if that is near enough to be drawn."""

    table: Table
    limit: str | None
    is_drawn: bool


def render(
    result: PlanResult, rows: Sequence[Planned], left_out: dict[str, str], changes: Sequence[str], precision: str
) -> str:
    """Return the page as text; `rows` are in their order, `precision` says how far off the figures may be."""
    on_cpu = result.device == "cpu"
    limit = None if math.isinf(result.memory) else result.memory
    page = {
        "result": result,
        "fitting": [row.label for row in rows if row.fits],
        "planned": rows,
        "timed": any(row.step_seconds is not None for row in rows),
        "limit": limit and bytes_text(limit),
        "what": "the process" if on_cpu else "the device",
        "table": methods_table(rows, limit, on_cpu=on_cpu),
        "bars": _bars(rows, limit, on_cpu=on_cpu),
        "parts": _parts(rows),
        "part_names": [*PARTS, *([BESIDE] if on_cpu else [])],
        "changes": changes,
        "left_out": left_out,
        "precision": precision,
    }
    return printable(templates("api").get_template("plan.html.j2").render(page))


def methods_table(rows: Sequence[Planned], limit: float | None, *, on_cpu: bool) -> Table:
    """Return what each method trains and saves, what it takes of memory and time, and with what it fits."""
    columns = [
        Column(name="method", html=label),
        Column(name="family"),
        Column(name="trains", text=count_text, right=True),
        Column(name="file", text=bytes_text, right=True),
        Column(name="process" if on_cpu else "device", text=bytes_text, right=True),
    ]
    if timed := any(row.step_seconds is not None for row in rows):
        columns += [
            Column(name="a step", text=_seconds, right=True),
            Column(name="steps", text="{:,}".format, right=True),
            Column(name="the run", text=_seconds, right=True),
        ]
    if limit is not None:
        columns.append(Column(name=f"fits in {bytes_text(limit)}"))
    cells = [
        [
            row.label,
            row.method.family,
            row.trained_parameters,
            row.file_bytes,
            row.process_bytes,
            *([row.step_seconds, row.steps, row.run_seconds] if timed else []),
            *([] if limit is None else [fit_text(row)]),
        ]
        for row in rows
    ]
    return Table(columns=columns, rows=cells)


def fit_text(row: Planned) -> str:
    """Say whether the method fits, and with what change it would."""
    if row.fits:
        return "yes"
    return f"with {flags(row.change)}" if row.change else "no"


def flags(change: dict[str, object]) -> str:
    """Write settings as on the command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items())


def _bars(rows: Sequence[Planned], limit: float | None, *, on_cpu: bool) -> Bars:
    longest = max((row.process_bytes for row in rows), default=1)
    is_drawn = limit is not None and limit <= _NEAR * longest
    whole = 1.02 * max(longest, limit if limit is not None and is_drawn else 0)
    line = limit if is_drawn else None

    def bar(row: Planned) -> dict[str, int]:
        return {**row.memory, "beside": row.process_bytes - row.cost.step.peak}

    columns = [
        Column(name="method", html=label),
        Column(name="memory", html=lambda memory: memory_bar(memory, whole, line), kind="bars"),
        Column(name="process" if on_cpu else "device", text=bytes_text, right=True),
    ]
    table = Table(columns=columns, rows=[[row.label, bar(row), row.process_bytes] for row in rows])
    return Bars(table=table, limit=None if limit is None else bytes_text(limit), is_drawn=is_drawn)


def _parts(rows: Sequence[Planned]) -> Table:
    columns = [Column(name="method", html=label)]
    columns += [Column(name=part.name, text=bytes_text, right=True) for part in PARTS]
    columns.append(Column(name="all tensors", text=bytes_text, right=True))
    return Table(
        columns=columns,
        rows=[[row.label, *(part.size(row.memory) or None for part in PARTS), row.cost.step.peak] for row in rows],
    )


def _seconds(value: float) -> str:
    return text_or_unknown(seconds_text, value)
