"""Rows of one file: .jsonl, .json, .csv, .tsv, .txt (each also .gz) and .parquet."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .problems import Problems, listed, shown

DOCUMENT_END = "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    values: dict[str, Any]
    place: str
    """Where a message says it is, such as train.jsonl:17."""


def row_extension(name: str) -> str | None:
    """The ending of a file that holds rows, such as .csv.gz, or None if the name has none that is known."""
    return next((extension for extension in EXTENSIONS if name.lower().endswith(extension)), None)


def plain_text(name: str) -> bool:
    """Whether the file holds text without columns."""
    return row_extension(name) in (".txt", ".txt.gz")


def read_rows(path: Path, problems: Problems) -> list[Row]:
    """The file's rows that can be read; what stands in the way of the others, or of all, is added to `problems`."""
    before = problems.count
    extension = row_extension(path.name)
    if extension == ".parquet":
        rows = list(_parquet(path, problems))
    elif extension is None:
        raise ValueError(f"{path} has no extension of a row file")
    else:
        text = read_text(path, problems)
        parse = TEXT_FORMATS[extension.removesuffix(".gz")]
        rows = [] if text is None else list(parse(path.name, text, problems))
    if not rows and problems.count == before:
        problems.add(("no rows", path), path.name, "has no rows")
    return rows


def text_in(row: Row, column: str, problems: Problems) -> str | None:
    """The text of a column; None and a problem if it is empty or no text."""
    value = row.values[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        problems.add(("empty", column), row.place, f"{column} is empty; give the row a text or remove it")
        return None
    if not isinstance(value, str):
        problems.add(("no text", column), row.place, f"{column} is {shown(value)}, not a text")
        return None
    return value


def read_text(path: Path, problems: Problems) -> str | None:
    """The file's text without a byte-order mark, or None and a problem if it cannot be read."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            data: bytes = file.read()
    except (OSError, EOFError, zlib.error) as problem:
        problems.add(("unreadable", path), path.name, f"cannot be read: {problem}")
        return None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        guess = " (the file looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        problems.add(
            ("encoding", path),
            f"{path.name}:{line}",
            f"byte {problem.start} of the file is 0x{data[problem.start]:02x}, which is not UTF-8{guess}; "
            "save the file as UTF-8",
        )
        return None


def _json_lines(name: str, text: str, problems: Problems) -> Iterator[Row]:
    # Not splitlines(): JSON text may hold U+2028 and other characters that it takes for ends of lines.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip("\ufeff")  # files with a byte-order mark each, put together into one
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as problem:
            problems.add("not JSON", place, f"the row is not JSON: {_json_complaint(problem)}")
            continue
        yield from _object_row(value, place, problems)


def _json_list(name: str, text: str, problems: Problems) -> Iterator[Row]:
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as problem:
        line = problem.lineno if isinstance(problem, json.JSONDecodeError) else 1
        advice = "; if it has one object a line, name it .jsonl" if "Extra data" in str(problem) else ""
        problems.add(("not JSON", name), f"{name}:{line}", f"the file is not JSON: {_json_complaint(problem)}{advice}")
        return
    if not isinstance(values, list):
        problems.add(("no list", name), name, f"the file holds {shown(values)}; it must hold a list of objects")
        return
    for number, value in enumerate(values, 1):
        yield from _object_row(value, f"{name} row {number}", problems)


def _object_row(value: Any, place: str, problems: Problems) -> Iterator[Row]:
    if not isinstance(value, dict):
        problems.add("no object", place, f"the row is {shown(value)}; it must be an object with the columns as keys")
    elif half := _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        # JSON can spell it, but neither a tokenizer nor a file takes it.
        problems.add("surrogate", place, f"the row holds half of a character, \\u{ord(half[0]):04x}; write it as UTF-8")
    else:
        yield Row(value, place)


def _json_complaint(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} at column {problem.colno}"
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)


def _delimited(name: str, text: str, problems: Problems, *, delimiter: str) -> Iterator[Row]:
    # strict: without it a quote that is never closed swallows the rest of the file in silence.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    next_line = 1
    try:
        for fields in reader:
            line, next_line = next_line, reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                if twice := [column for column in dict.fromkeys(header) if header.count(column) > 1]:
                    problems.add(("header", name), f"{name}:{line}", f"columns named twice: {listed(twice)}")
                    return
            elif len(fields) != len(header):
                problems.add(
                    "fields",
                    f"{name}:{line}",
                    f"the row has {len(fields)} fields, the header {len(header)} ({listed(header)}); "
                    "a field that holds the separator or a line break must be in double quotes",
                )
            else:
                yield Row(dict(zip(header, fields, strict=True)), f"{name}:{line}")
    except csv.Error as problem:
        problems.add(("csv", name), f"{name}:{next_line}", f"the row cannot be split into fields: {problem}")


def _documents(name: str, text: str, problems: Problems) -> Iterator[Row]:
    """A plain text is one document, or several that a line with nothing but <|endoftext|> ends.

    Blank lines part paragraphs, and a language model is to learn how one follows from another.
    """
    lines: list[str] = []
    first = 1
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), DOCUMENT_END], 1):
        if line.strip() != DOCUMENT_END:
            lines.append(line)
            continue
        blank = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        if document := "\n".join(lines[blank:]).rstrip():
            yield Row({"text": document}, f"{name}:{first + blank}")
        lines, first = [], number + 1


def _parquet(path: Path, problems: Problems) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as problem:
        problems.add(("unreadable", path), path.name, f"cannot be read as Parquet: {problem}")
        return
    for number, value in enumerate(values, 1):
        yield Row(value, f"{path.name} row {number}")


TEXT_FORMATS: dict[str, Callable[[str, str, Problems], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".txt": _documents,
}
EXTENSIONS = (*TEXT_FORMATS, *(f"{extension}.gz" for extension in TEXT_FORMATS), ".parquet")
