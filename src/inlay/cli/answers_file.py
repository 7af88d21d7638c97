"""The file that `predict FILE --out ANSWERS` writes: each row with its number, its own columns, and its answer."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..data.delimited_style import PLAIN, Style
from ..data.problems import Unreadable
from ..data.rows import Row
from ..formats.files import as_json, write_whole
from ..formats.paths import new_file

_KINDS = (".csv", ".tsv", ".jsonl")


def answers_path(out: str) -> Path:
    """Return where the answers are to be written. Raises SettingsError if that is there already, or of no kind that is
    written."""
    return new_file("--out", out, _KINDS, "answers are")


def write_answers(
    path: Path, rows: Sequence[Row], answers: Sequence[Mapping[str, object]], style: Style = PLAIN
) -> list[str]:
    """Write the rows in their order, the first with the number 1, whole or not at all; returns the columns. What a row
    has under the name of a column of ours stays; ours is then called so with a 2. A .csv is written in the `style`, a
    .tsv with tabs whatever separates the fields of the input."""
    own = dict.fromkeys(column for row in rows for column in row.values)
    keys = dict.fromkeys(key for answer in answers for key in answer)
    number, *added = _new(("row", *keys), own)
    lines = [
        {
            number: i,
            **{column: _plain(value) for column, value in row.values.items()},
            **{column: answer.get(key) for key, column in zip(keys, added, strict=True)},
        }
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True), 1)
    ]
    columns = [number, *own, *added]
    if (kind := path.suffix.lower()) != ".jsonl":
        style = replace(style, separator="\t", told=False) if kind == ".tsv" else style
        write_whole(path, lambda unfinished: _write_csv(unfinished, columns, lines, style))
    else:
        write_whole(path, lambda unfinished: _write_json_lines(unfinished, lines, style))
    return columns


def _plain(value: object) -> object:
    """Return what JSON can have; what a table has beside that, such as a date, becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.reason if isinstance(value, Unreadable) else str(value)


def _new(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Return the names, each with a number behind it where it is taken."""
    taken = {*taken}
    found = []
    for name in names:
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        found.append(free)
    return found


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]], style: Style) -> None:
    encoding = "utf-8-sig" if style.marked else "utf-8"
    with path.open("w", encoding=encoding, errors="backslashreplace", newline="") as file:
        if style.told:
            file.write(f"sep={style.separator}{style.line_end}")
        fields = [columns, *([_field(line.get(column)) for column in columns] for line in lines)]
        ends = {style.separator, "\r", "\n"}
        # Fields that hold what ends them must be quoted, and the file read so.
        plain = not style.quoted and not any(ends & {*str(field)} for line in fields for field in line)
        quoting, mark = (csv.QUOTE_NONE, None) if plain else (csv.QUOTE_MINIMAL, '"')
        csv.writer(
            file, delimiter=style.separator, quotechar=mark, quoting=quoting, lineterminator=style.line_end
        ).writerows(fields)


def _field(value: object) -> object:
    """Return what the CSV writer takes: lists, objects, true and false as JSON; of None it makes an empty field."""
    return as_json(value) if isinstance(value, list | dict | bool) else value


def _write_json_lines(path: Path, lines: Iterable[Mapping[str, object]], style: Style) -> None:
    text = "".join(as_json(line) + style.line_end for line in lines)
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
