"""The file that `predict FILE --out ANSWERS` writes: each row with its number, its own columns, and its answer."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..data.problems import Unreadable
from ..data.rows import Row
from ..formats.files import as_json, write_whole
from ..formats.paths import new_file

_KINDS = (".csv", ".jsonl")


def answers_path(out: str) -> Path:
    """Return where the answers are to be written. Raises SettingsError if that is there already, or of no kind that is
    written."""
    return new_file("--out", out, _KINDS, "answers are")


def write_answers(path: Path, rows: Sequence[Row], answers: Sequence[Mapping[str, object]]) -> list[str]:
    """Write the rows in their order, the first with the number 1, whole or not at all; returns the columns. What a row
    has under the name of a column of ours stays; ours is then called so with a 2."""
    own = dict.fromkeys(column for row in rows for column in row.values)
    number, *added = _new(("row", *dict.fromkeys(key for answer in answers for key in answer)), own)
    lines = [
        {
            number: i,
            **{column: _plain(value) for column, value in row.values.items()},
            **dict(zip(added, answer.values(), strict=True)),
        }
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True), 1)
    ]
    columns = [number, *own, *added]
    write = _write_csv if path.suffix.lower() == ".csv" else _write_json_lines
    write_whole(path, lambda unfinished: write(unfinished, columns, lines))
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


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_field(line.get(column)) for column in columns] for line in lines)


def _field(value: object) -> object:
    """Return what the CSV writer takes: lists, objects, true and false as JSON; of None it makes an empty field."""
    return as_json(value) if isinstance(value, list | dict | bool) else value


def _write_json_lines(path: Path, _: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    text = "".join(as_json(line) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
