"""inlay plan MODEL [DATA]: what each method would take, before anything is loaded."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ..data.settings import LARGEST_VALID_FRACTION, DataSettings, Reading
from ..errors import DoesNotFit, SettingsError
from ..formats.files import write_text
from ..formats.paths import new_file
from ..ranges import ROWS, Range
from ..show.table import Table
from ..training.plan_settings import PlanSettings
from ..under_way import shown_by
from .arguments import Model
from .parse import parse
from .screen import own, print_json, show, width

if TYPE_CHECKING:
    from ..api.plan import Costs


@dataclass(frozen=True, kw_only=True)
class RowsToPlan(Reading):  # a docstring would stand in the help
    path: Annotated[Positional[str | None], arg(metavar="[DATA]")] = None
    """The rows to train on, whose lengths count. Without them give --tokens."""
    train_rows: Annotated[int | None, ROWS] = None
    """Train on at most so many rows, evenly spread over the data. Default: all."""
    eval_rows: Annotated[int | None, ROWS] = None
    """Evaluate on at most so many rows of valid, evenly spread. Default: all."""
    valid_fraction: Annotated[float | None, Range(above=0, most=LARGEST_VALID_FRACTION)] = None
    """The share of train that is held out as valid where there is none. Default: 0.05."""

    def __post_init__(self) -> None:
        asked = self.asked() | self.own
        if self.path is None and (given := next(iter(asked), None)) is not None:
            raise SettingsError(f"data.{given} is given without DATA, whose rows it reads; name DATA")

    @property
    def own(self) -> dict[str, object]:
        """What is asked for beside how rows are read."""
        names = ("train_rows", "eval_rows", "valid_fraction")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class PlanArguments(PlanSettings):
    """Tell what each method would take of memory and time, by a step that is followed without weights or values.

    Without DATA give --tokens, the length of a row. MODEL may be a folder with a config.json alone.
    """

    model: Model
    data: RowsToPlan = RowsToPlan()
    methods: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    page: str | None = None
    """Write a page as well, with bars of what the memory goes to: a file such as plan.html."""
    json: bool = False
    """Print one JSON object instead of text."""


_OWN = [field.name for field in dataclasses.fields(PlanSettings)]
_TITLES = {**dict.fromkeys(_OWN, "The run"), "data.": "The data", "page": "The output", "json": "The output"}


def main(arguments: list[str]) -> int:
    asked = parse(PlanArguments, arguments, "plan", titles=_TITLES)
    page = None if asked.page is None else new_file("--page", asked.page, (".html",), "a page is")
    from ..api.plan import plan
    from ..training.planning import Asked, Planned
    from .compare import contender

    contenders = [contender(label) for label in asked.methods]
    chosen = [Asked(label=each.label, method=each.method, quantize=each.quantize) for each in contenders]
    reading: dict[str, Any] = asked.data.asked() | asked.data.own
    data = None if asked.data.path is None else DataSettings(path=asked.data.path, **reading)
    settings = {field.name: getattr(asked, field.name) for field in dataclasses.fields(PlanSettings)}
    del settings["methods"]
    with _progress(asked.json) as progress:
        found = plan(asked.model, data, chosen, progress=progress, **settings)
    if page is not None:
        write_text(page, found.page)
    if asked.json:
        print_json(found.as_json() | ({} if page is None else {"page": str(page)}))
    else:
        _show(found, page)
    planned = [row for row in found.rows if isinstance(row, Planned)]
    if not planned:
        return SettingsError.exit_code
    return 0 if any(row.fits or row.change for row in planned) else DoesNotFit.exit_code


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Name each method, and what is under way for it, on a line of the terminal that is gone in the end."""
    if quiet or not sys.stderr.isatty():
        yield lambda label: None
        return
    terminal, planning = own(sys.stderr), ""

    def write(line: str) -> None:
        print(f"\r\033[2K{line}", end="", file=terminal, flush=True)

    def name(label: str) -> None:
        nonlocal planning
        planning = f"planning {label} …"
        write(planning)

    try:
        with shown_by(lambda what, done, parts: write(f"{what}: {done} of {parts} …" if done < parts else planning)):
            yield name
    finally:
        write("")


def _show(found: "Costs", page: Path | None) -> None:
    result = found.result
    show(
        f"{result.model} on {result.source}: {found.steps}, of at most {result.longest} tokens"
        f"{', packed' if result.packs else ''}; {result.dtype} on {result.device}{found.shared}",
        2,
    )
    families = [row.method.family for row in found.planned]
    if families:
        print(f"\n{_by_family(found.table, families).screen(width())}\n")
        show("Memory of the tensors when they take most (optimizer: with gradients; other: loss and temporaries):", 2)
        print(f"\n{found.parts.screen(width())}\n")
    for line in found.changes:
        show(f"to fit    {line}", 10)
    for label, why in found.left_out.items():
        show(f"left out  {label}: {why}", 10)
    for note in (*result.skipped, *([found.precision] if families else [])):
        show(f"note      {note}", 10)
    if page is not None:
        show(f"page      {page}", 10)


def _by_family(table: Table, families: list[str]) -> Table:
    """Return the table with the families of its rows as headings, if there are several."""
    if len(set(families)) < 2:
        return table
    return replace(table, rows=list(_headed(table, families)))


def _headed(table: Table, families: list[str]) -> Iterator[list[object]]:
    for family, rows in groupby(zip(families, table.rows, strict=True), key=lambda pair: pair[0]):
        yield [family, *([""] * (len(table.columns) - 1))]
        for _, (label, *values) in rows:
            yield [f"  {label}", *values]
