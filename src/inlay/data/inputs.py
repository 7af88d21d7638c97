"""Inputs in a file, for an adapter to answer: the lines of a text, or rows whose other columns are kept beside them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DataError
from ..formats.paths import path_of
from .columns import find_column, no_column, others_named, renamed
from .delimited_style import PLAIN, Style, style_of
from .formats import USUAL, has_columns
from .problems import Problems, number_in
from .rows import EXTENSIONS, Row, is_blank, plain_text, read_rows, read_table, row_extension, text_in
from .settings import Reading
from .source import check_between, nearest_file
from .text_file import lines_of, read_text

_LINE = "text"  # the column of a line of plain text


@dataclass(frozen=True)
class InputRows:
    """The rows of a file, in its order, and how they are to be read."""

    path: str
    rows: Sequence[Row]
    reading: Reading
    plain: bool
    """Whether they are the lines of a text, which has no columns."""
    style: Style = PLAIN
    """How the file is written."""
    problems: Problems = field(default_factory=Problems)
    """What is wrong with rows; `texts` adds to it."""
    unread: frozenset[str] = frozenset()
    """The places of rows of which nothing could be read; their columns are empty."""

    @property
    def skipped(self) -> list[str]:
        """Say which rows cannot be read, and so get no answer, as was asked."""
        return [problem.told for problem in self.problems.found() if problem.severity == "skipped"]

    @property
    def columns(self) -> Collection[str]:
        """The columns of the first row that can be read."""
        return self._first.values

    def texts(self, columns: Mapping[str, str]) -> list[tuple[str, str | None]]:
        """Return each row's text and, for pairs, second text, by their columns: the text is the first role's, such as a
        prompt, the second text that of `text_pair`; a label is not looked at. A row without
        a text keeps its place, and so does one that cannot be read, with an empty text, if these are as few as may be.
        Raises DataError, with a line for each kind of problem, if they are more."""
        wanted = {role: column for role, column in columns.items() if role != "label"}
        pairs, text = "text_pair" in wanted, next(role for role in wanted if role != "text_pair")
        if self.plain and pairs:
            raise DataError(
                f"{self.path}: a line of plain text is one text, and pairs are needed; give a file with the columns "
                f"{wanted[text]} and {wanted['text_pair']}"
            )
        if self.plain:
            wanted = {text: _LINE}
        self._check_header(wanted)
        problems, nothing = self.problems, ("", "" if pairs else None)
        found: list[tuple[str, str | None]] = []
        for row in (renamed(row, wanted.values()) for row in self.rows):
            if row.place in self.unread or not has_columns(row, wanted.values(), problems):
                found.append(nothing)
            else:
                pair = _text(row, wanted["text_pair"], problems) if pairs else None
                found.append((_text(row, wanted[text], problems), pair))
        problems.weigh(Path(self.path).name, problems.faulty, len(self.rows))
        problems.raise_errors()
        return found

    @property
    def _first(self) -> Row:
        return next(row for row in self.rows if row.place not in self.unread)

    def _check_header(self, wanted: Mapping[str, str]) -> None:
        """Raise DataError if the first row that can be read has not the wanted columns, so that most rows will lack
        them, and say how to name those that it has."""
        first = self._first
        for column in wanted.values():
            if find_column(column, first.values) is None:
                others = others_named(self.rows, wanted, USUAL)
                said = f"{first.columns_place}: {no_column(column, first.values)}"
                raise DataError(f"{said}; {others}" if others else said)


def read_inputs(path: str, reading: Reading | None = None) -> InputRows:
    """Read a file of inputs; each line of a .txt file is one, a blank one too. Rows that cannot be read keep
    their place, if some may be; else, and if none can be, they are a DataError."""
    reading = reading or Reading()
    file = path_of(path, DataError, any_bytes=True)
    plain = plain_text(file.name)
    if not file.is_file():
        raise DataError(f"{path}: no such file{nearest_file(file)}")
    if row_extension(file.name) is None:
        raise DataError(f"{path}: not a kind of file that can be read; known: {', '.join(EXTENSIONS)}")
    if plain and (named := reading.named_columns()):
        raise DataError(f"{path}: a .txt file has no columns; leave out data.{next(iter(named))}")
    check_between(path, reading, [file.name])
    problems = Problems(reading.skip_faulty)
    if plain:
        text = read_text(file, problems, reading.unpacked_megabytes)
        problems.raise_errors()
        lines = lines_of(text or "")
        rows = lines if lines[-1] else lines[:-1]  # behind the last line's end is nothing
        return replace(lines_as_rows(path, rows, reading), style=style_of(file, None))
    split = None
    if row_extension(file.name) in (".csv", ".csv.gz"):
        rows, split = read_table(file, problems, reading)
    else:
        rows = read_rows(file, problems, reading)
    if not rows or not reading.skip_faulty:  # else they are weighed when all that is faulty is known
        problems.weigh(file.name, problems.faulty, len(rows) + problems.faulty)
    problems.raise_errors()
    unread = frozenset(problems.faulty_places)
    rows = sorted([*rows, *(Row({}, place) for place in unread)], key=lambda row: number_in(row.place))
    return InputRows(path, rows, reading, plain, style_of(file, split), problems, unread)


def lines_as_rows(path: str, lines: Sequence[str], reading: Reading | None = None) -> InputRows:
    """Return lines of plain text, each a row. Raises DataError if none has a letter."""
    name = Path(path).name
    if not any(line.strip() for line in lines):
        raise DataError(f"{name}: has no text")
    rows = [Row({_LINE: line}, f"{name}:{number}") for number, line in enumerate(lines, 1)]
    return InputRows(path, rows, reading or Reading(), plain=True)


def lacks_text(given: object) -> bool:
    """Tell whether there is nothing to answer: a text, or one of a pair, that is missing or blank. What is said in a
    conversation is not looked at."""
    parts = given if isinstance(given, list | tuple) else [given]
    return not parts or parts[0] is None or any(isinstance(part, str) and not part.strip() for part in parts)


def _text(row: Row, column: str, problems: Problems) -> str:
    """Return the row's text, which may be empty; a problem if there is something else in its place."""
    value = row.values[column]
    return (value or "") if is_blank(value) else (text_in(row, column, problems) or "")


def texts_in(row: Row, columns: Mapping[str, str], problems: Problems) -> tuple[str, str | None] | None:
    """Return the row's text and, for pairs, second text; None and a problem if one of them cannot be used."""
    text = text_in(row, columns["text"], problems)
    if "text_pair" not in columns:
        return None if text is None else (text, None)
    pair = text_in(row, columns["text_pair"], problems)
    return None if text is None or pair is None else (text, pair)
