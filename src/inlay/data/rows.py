"""Rows of one file: .jsonl, .json, .csv, .tsv, .txt (each also .gz) and .parquet."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeGuard

from ..outside import NO_TEXT
from .delimited import Quoting, Split, split_text, tell
from .parquet import parquet_rows
from .problems import Problems, listed, shown
from .settings import Reading
from .text_file import lines_of, read_text

DOCUMENT_END = "<|endoftext|>"
DEEPEST = 100
"""Lists and objects within one another that a row may have: templates and JSON writers call themselves for each."""
_USUAL = {".csv": ",", ".tsv": "\t"}  # what separates fields, where nothing else is asked for or found
_BY_DEFAULT = Reading()


@dataclass(frozen=True)
class Row:
    values: dict[str, object]
    place: str
    """Where a message says it is, such as train.jsonl:17."""
    absent: tuple[str, ...] = ()
    """Columns in which objects within others had keys without values, which a table may have given them: taken out."""
    header: str | None = field(default=None, compare=False)
    """Where the names of its columns stand, if that is not beside its values."""

    @property
    def columns_place(self) -> str:
        """Where a message about the columns says that they are."""
        return self.header or self.place


def row_extension(name: str) -> str | None:
    """Return the ending of a file that holds rows, such as .csv.gz, or None if the name has none that is known."""
    return next((extension for extension in EXTENSIONS if name.lower().endswith(extension)), None)


def plain_text(name: str) -> bool:
    """Tell whether the file holds text without columns."""
    return row_extension(name) in (".txt", ".txt.gz")


def has_separators(name: str) -> bool:
    """Tell whether the file holds rows whose fields are parted by a separator."""
    return (row_extension(name) or "").startswith((".csv", ".tsv"))


def read_rows(path: Path, problems: Problems, reading: Reading = _BY_DEFAULT) -> list[Row]:
    """Return the file's rows that can be read; what stands in the way of the others, or of all, is added to `problems`.

    Of `reading` what a packed file may unpack to counts, and what stands between fields, where there are some.
    """
    return read_files({path.name: path}, problems, reading)


def read_files(files: Mapping[str, Path], problems: Problems, reading: Reading = _BY_DEFAULT) -> list[Row]:
    """Return the rows of files that belong together, by what messages call them, as `read_rows` has them."""
    with _rows_wanted(*next(iter(files.items())), problems) as rows:
        rows += (row for name, path in files.items() for row in _read(path, name, problems, reading))
    return rows


def read_table(path: Path, problems: Problems, reading: Reading = _BY_DEFAULT) -> tuple[list[Row], Split | None]:
    """Return the rows of a .csv file as `read_rows` has them, and the split that they come from, if there is one."""
    with _rows_wanted(path.name, path, problems) as rows:
        text, split = read_text(path, problems, reading.unpacked_megabytes), None
        if text is not None:
            split = split_text(path.name, text, _USUAL[".csv"], reading.separator, reading.quoting, problems)
        if split is not None:
            rows += _rows_of(split, path.name, problems)
    return rows, split


@contextmanager
def _rows_wanted(name: str, path: Path, problems: Problems) -> Iterator[list[Row]]:
    """Yield a list for rows. A problem is added if it is left empty and nothing says why."""
    before, rows = problems.count, list[Row]()
    yield rows
    if not rows and problems.count == before:
        problems.add(("no rows", path), name, "has no rows")


def _read(path: Path, name: str, problems: Problems, reading: Reading) -> Iterator[Row]:
    extension, megabytes = row_extension(path.name), reading.unpacked_megabytes
    if extension == ".parquet":
        for number, value in enumerate(parquet_rows(path, problems, megabytes, name), 1):
            yield from table_row(value, f"{name} row {number}", problems)
    elif extension is None:
        raise ValueError(f"{path} has no extension of a row file")
    elif (text := read_text(path, problems, megabytes, name)) is not None:
        read = TEXT_FORMATS[extension.removesuffix(".gz")]
        between = {"separator": reading.separator, "quoting": reading.quoting} if has_separators(path.name) else {}
        yield from read(name, text, problems, **between)


def is_blank(value: object) -> TypeGuard[str | None]:
    """Tell whether the value of a column is a text that is missing or has no letter."""
    return value is None or (isinstance(value, str) and not value.strip())


def text_in(row: Row, column: str, problems: Problems) -> str | None:
    """Return the text of a column; None and a problem if it is empty or no text."""
    value = row.values[column]
    if is_blank(value):
        problems.fault(("empty", column), row.place, f"{column} is empty; give the row a text or remove it")
        return None
    if not isinstance(value, str):
        problems.fault(("no text", column), row.place, f"{column} is {shown(value)}, not a text")
        return None
    return value


def _json_lines(name: str, text: str, problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        line = line.lstrip("\ufeff")  # files with a byte-order mark each, put together into one
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            value = read_json_text(line)
        except (ValueError, RecursionError) as problem:
            problems.fault("not JSON", place, f"the row {_json_complaint(problem)}")
            continue
        yield from _object_row(value, place, problems)


def _json_list(name: str, text: str, problems: Problems) -> Iterator[Row]:
    if not text.strip():
        return
    try:
        values = read_json_text(text)
    except (ValueError, RecursionError) as problem:
        line = problem.lineno if isinstance(problem, json.JSONDecodeError) else 1
        advice = "; if it has one object a line, name it .jsonl" if "Extra data" in str(problem) else ""
        problems.add(("not JSON", name), f"{name}:{line}", f"the file {_json_complaint(problem)}{advice}")
        return
    if not isinstance(values, list):
        problems.add(("no list", name), name, f"the file holds {shown(values)}; it must hold a list of objects")
        return
    for number, value in enumerate(values, 1):
        yield from _object_row(value, f"{name} row {number}", problems)


def table_row(values: dict[str, object], place: str, problems: Problems) -> Iterator[Row]:
    """Yield the row of a table (Parquet, the hub), whose objects all have the keys that any of them has.

    A key of an object that is null is taken for one that this object lacks. A null in a list, or in JSON that stands in
    a text, is the file's own and stays, and so does a column's.
    """
    for row in _object_row(values, place, problems):
        lost: list[str] = []
        kept = {column: _without_absent(value, column, lost) for column, value in row.values.items()}
        yield Row(kept, place, tuple(dict.fromkeys(lost)))


def _without_absent(value: object, column: str, lost: list[str], within: bool = False) -> object:
    """Return the value without keys that are null. The column is added to `lost` if an object `within` another had
    one.
    """
    if isinstance(value, dict):
        kept = {key: _without_absent(part, column, lost, True) for key, part in value.items() if part is not None}
        if within and len(kept) < len(value):
            lost.append(column)
        return kept
    return [_without_absent(part, column, lost, within) for part in value] if isinstance(value, list) else value


def _object_row(value: object, place: str, problems: Problems) -> Iterator[Row]:
    if not isinstance(value, dict):
        problems.fault("no object", place, f"the row is {shown(value)}; it must be an object with the columns as keys")
    elif (fault := fault_in(value)) is not None:
        problems.fault(fault.partition(",")[0], place, fault)
    else:
        yield Row(value, place)


def fault_in(row: object) -> str | None:
    """Say what of a row, or of a value in it, neither a tokenizer nor a file takes; None if there is nothing."""
    level: list[object] = [row]
    for _ in range(DEEPEST):
        parts: list[object] = []
        for value in level:
            if isinstance(value, dict):
                parts += (*value, *value.values())
            elif isinstance(value, list):
                parts += value
            elif isinstance(value, str) and (half := NO_TEXT.search(value)):
                return f"the row holds half of a character, \\u{ord(half[0]):04x}; write it as UTF-8"
        if not parts:
            return None
        level = parts
    return f"the row has more than {DEEPEST} lists and objects within one another; write it flatter"


def read_json_text(text: str) -> object:
    """Parse JSON. Raises ValueError, also for a key that is there twice, or RecursionError where it is nested too
    deeply."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {shown(twice)} twice, of which one value would be lost")
    return values


def _json_complaint(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"is not JSON: {problem.msg} at column {problem.colno}"
    if isinstance(problem, RecursionError):
        return "is nested too deeply; write it flatter"
    if "integer string conversion" in str(problem):
        return "has a number of more than 4,300 digits, the most that are read; write it as a text"
    return f"cannot be read: {problem}"


def _delimited(
    name: str,
    text: str,
    problems: Problems,
    *,
    usual: str,
    separator: str | None = None,
    quoting: Quoting = "auto",
) -> Iterator[Row]:
    if (split := split_text(name, text, usual, separator, quoting, problems)) is not None:
        yield from _rows_of(split, name, problems)


def _rows_of(split: Split, name: str, problems: Problems) -> Iterator[Row]:
    columns, header = split.header.fields, f"{name}:{split.header.line}"
    if twice := [column for column in dict.fromkeys(columns) if columns.count(column) > 1]:
        what = listed(column or "(without a name)" for column in twice)
        problems.add(("header", name), header, f"columns named twice: {what}")
        return
    for record in split.records if split.fault is None else ():  # a part is not taken for the whole
        yield Row(dict(zip(columns, record.fields, strict=True)), f"{name}:{record.line}", header=header)
    tell(split, name, problems)


def _documents(name: str, text: str, problems: Problems) -> Iterator[Row]:
    """Yield the documents of a plain text: one, or several that a line with nothing but <|endoftext|> ends.

    Blank lines part paragraphs, and a language model is to learn how one follows from another.
    """
    lines: list[str] = []
    first = 1
    for number, line in enumerate([*lines_of(text), DOCUMENT_END], 1):
        if line.strip() != DOCUMENT_END:
            lines.append(line)
            continue
        blank = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        if document := "\n".join(lines[blank:]).rstrip():
            yield Row({"text": document}, f"{name}:{first + blank}")
        lines, first = [], number + 1


TEXT_FORMATS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    **{extension: partial(_delimited, usual=separator) for extension, separator in _USUAL.items()},
    ".txt": _documents,
}
EXTENSIONS = (*TEXT_FORMATS, *(f"{extension}.gz" for extension in TEXT_FORMATS), ".parquet")
