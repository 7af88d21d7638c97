"""Tables: made once, rendered to a terminal, Markdown, CSV and HTML."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        for column in self.columns:
            justify = "right" if column.right else "left"
            found.add_column(column.name, justify=justify, no_wrap=column.right, overflow="fold")
        for row, cells in zip(self.rows, self._written(), strict=True):
            found.add_row(*cells, style="red" if len(row) < len(self.columns) else None)
        return found

    def screen(self, width: int | None = None) -> str:
        """Return the lines for a terminal of that width, and without one as wide as they need to be."""
        from rich.console import Console

        plain: dict[str, Any] = {"color_system": None, "markup": False, "emoji": False, "force_jupyter": False}
        console = Console(file=io.StringIO(), width=width or 10_000, **plain)
        with console.capture() as found:
            console.print(self)
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

    def _written(self) -> list[list[str]]:
        """Return every cell as text, with empty ones where a row is too short."""
        return [
            [column.written(value) for column, value in zip(self.columns, row, strict=False)]
            + [""] * (len(self.columns) - len(row))
            for row in self.rows
        ]
