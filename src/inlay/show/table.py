"""Tables: made once, rendered to a terminal, Markdown, CSV and HTML."""

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .page import templates
from .units import UNKNOWN

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True, kw_only=True)
class Column:
    """What stands under one heading, and how it is written."""

    name: str
    text: Callable[[Any], str] = str
    """Writes a value. A text is written as it is, and None as a dash."""
    html: Callable[[Any], Markup] | None = None
    """Writes a value in a page, where that is more than its text."""
    right: bool = False
    """Whether it is aligned at the right, as numbers are."""
    kind: str = ""
    """The style sheet's class of its cells in a page."""

    def written(self, value: object) -> str:
        if value is None:
            return UNKNOWN
        return value if isinstance(value, str) else self.text(value)

    @property
    def classes(self) -> str:
        """The classes of its cells in a page."""
        return " ".join(filter(None, (self.kind, "number" if self.right else "")))


@dataclass(frozen=True, kw_only=True, repr=False)
class Table:
    """Rows of values under columns. In a row that is too short, the last value takes the place of all that lack: a
    sentence, such as why a run failed."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]

    def __rich__(self) -> "rich.table.Table":
        """Return the table as rich prints it; its numbers are never broken."""
        import rich.table

        headed = any(column.name for column in self.columns)
        found = rich.table.Table(box=None, pad_edge=False, header_style="bold", show_header=headed)
        for column, (least, _) in zip(self.columns, self._widths(), strict=True):
            justify = "right" if column.right else "left"
            found.add_column(column.name, justify=justify, no_wrap=column.right, overflow="fold", min_width=least)
        for row, cells in zip(self.rows, self._written(), strict=True):
            found.add_row(*cells, style="red" if len(row) < len(self.columns) else None)
        return found

    def screen(self, width: int | None = None) -> str:
        """Return the lines for a terminal of that width, and without one as wide as they need to be. What is too wide
        gets its headings broken; columns for which there is no room even so stand below the others, beside the first
        column again."""
        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=width or 10_000, color_system=None, markup=False, emoji=False, force_jupyter=False
        )
        with console.capture() as found:
            for i, part in enumerate(self._parts(width) if width else [self]):
                console.print(*([""] if i else []), part, sep="\n")
        return "\n".join(line.rstrip() for line in found.get().rstrip("\n").split("\n"))

    def markdown(self) -> str:
        """Return a Markdown table."""
        names = [column.name for column in self.columns]
        ruler = ["---:" if column.right else "---" for column in self.columns]
        lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [names, *self._written()]]
        return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ruler, *lines[1:]])

    def csv(self) -> str:
        """Return the values as they are, for programs; what is not known is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in self.columns)
        writer.writerows(self.rows)
        return file.getvalue()

    def html(self, kind: str = "", label: str = "", stacked: bool = False) -> Markup:
        """Return a <table> of the style sheet's class `kind`. With a label it can be scrolled to the side on a narrow
        page; a stacked one has its cells below each other there, each with its column's name."""
        template = templates().get_template("table.html.j2")
        return Markup(template.render(table=self, kind=kind, label=label, stacked=stacked))  # noqa: S704

    def __repr__(self) -> str:
        return self.screen()

    def _repr_html_(self) -> str:
        return self.html()

    def _parts(self, width: int) -> "list[Table]":
        """Return tables that fit, of one if it can be."""
        widths = self._widths()
        if _across(wanted for _, wanted in widths) <= width:
            return [self]
        groups: list[list[int]] = [[]]
        for i in range(1, len(self.columns)):
            if groups[-1] and _across(widths[j][0] for j in (0, *groups[-1], i)) > width:
                groups.append([])
            groups[-1].append(i)
        parts = []
        for group in groups:
            columns = [
                replace(column, name=_broken(column.name, least) if column.right else column.name)
                for column, least in ((self.columns[i], widths[i][0]) for i in (0, *group))
            ]
            rows = [[row[i] for i in (0, *group) if i < len(row)] for row in self.rows]
            parts.append(Table(columns=columns, rows=rows))
        return parts

    def _widths(self) -> list[tuple[int, int]]:
        """Return for each column the least width at which no number and no word is broken, and what it takes whole."""
        rows = self._written()
        found = []
        for i, column in enumerate(self.columns):
            lines = [line for row in rows for line in row[i].split("\n")]
            whole = lines if column.right else [word for line in lines for word in line.split()]
            least = max(map(len, [*whole, *column.name.split()]), default=0)
            found.append((least, max(map(len, [*lines, *column.name.split("\n")]), default=0)))
        return found

    def _written(self) -> list[list[str]]:
        """Return every cell as text, with empty ones where a row is too short."""
        return [
            [column.written(value) for column, value in zip(self.columns, row, strict=False)]
            + [""] * (len(self.columns) - len(row))
            for row in self.rows
        ]


def _across(widths: Iterable[int]) -> int:
    """Return the width of columns with a gap of two between them."""
    found = list(widths)
    return sum(found) + 2 * (len(found) - 1)


def _broken(heading: str, width: int) -> str:
    return textwrap.fill(heading, width, break_long_words=False, break_on_hyphens=False)
