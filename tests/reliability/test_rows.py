"""Damaged and hostile files of rows: each is read, or refused with exit code 2; nothing else comes of it.

Files are valid ones in which values, then bytes, were replaced. Whatever can be read must also be described, parsed
and, where it is for generation, become tokens.
"""

import copy
import gzip
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.data.classification import classification_in
from inlay.data.describe import describe
from inlay.data.formats import open_data
from inlay.data.generation import generation_in
from inlay.data.problems import Problems
from inlay.data.rows import read_rows
from inlay.data.settings import DataSettings, Reading
from inlay.data.tokens import tokens_of
from inlay.errors import InvalidRequest

from ..data.chat_tokenizers import CHATML, LLAMA, MISTRAL, byte_level
from .attempts import MANY, bounded, seeded

TOKENIZERS = [byte_level(template) for template in (CHATML, LLAMA, MISTRAL, None)]
CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1},
    {"role": "tool", "content": "2", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 2.", "weight": 0},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "Ünd?"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!", "weight": 1}]
NESTED: list[Callable[[int], dict[str, Any]]] = [
    lambda i: {"messages": [*TALK, {"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "Yes."}]},
    lambda i: {"messages": [{"role": "user", "content": f"{i}?"}, TALK[-1]], "tools": TOOLS},
    lambda i: {"conversations": [*SHAREGPT, {"from": "human", "value": f"{i}"}, SHAREGPT[1]], "system": "Be kind."},
    lambda i: {"prompt": f"{i} + 1 =", "completion": f"{i + 1}", "references": [f"{i + 1}", "more"]},
]
FLAT: list[Callable[[int], dict[str, Any]]] = [
    lambda i: {"prompt": f"{i} + 1 =", "completion": f"{i + 1}"},
    lambda i: {"instruction": f"Say {i}, please.", "input": "", "output": f"{i}\nthere"},
    lambda i: {"text": f'text "{i}"', "label": ["spam", "ham"][i % 2]},
    lambda i: {"text": f"text {i}", "label": i % 3},
    lambda i: {"sentence1": f"a {i}", "sentence2": "b", "label": bool(i % 2)},
    lambda i: {"text": f"A text as a whole, which has the number {i}."},
]
VALUES: list[Any] = [
    *(
        None,
        "",
        " ",
        "x",
        "\0",
        "\ud800",
        "\u2028",
        "a\rb",
        "\x1b[31m",
        "9" * 5000,
        "0.5",
        "1e999",
        "nan",
        "</s>",
        "<|im_end|>",
    ),
    *(0, 1, -1, 2, 10**30, 0.5, 1e300, math.inf, math.nan, True, False),
    *([], {}, [None], [[]], {"a": None}, [{"role": "user"}], '{"a": {"b": 1}}', '["x"]', "{'a': 1}", "[" * 3000),
]
BYTES = [
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b"\n",
        b"\r\n",
        b'"',
        b"'",
        b",",
        b"\t",
        b";",
        b"\\",
        b"\\ud83d",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 2000,
        b":",
        b"null",
        b"NaN",
        b"1e400",
        b"9" * 4400,
        b'"text"',
        b'"role"',
        b"\xe2\x80",
    ),
]
PLACES = st.floats(0, 1, exclude_max=True)
SEPARATORS = {".csv": ",", ".tsv": "\t", ".semicolons.csv": ";"}
KINDS = (".jsonl", ".json", *SEPARATORS, ".txt", ".parquet", ".jsonl.gz")


@dataclass(frozen=True)
class Case:
    shape: float
    edits: list[tuple[float, str, Any]]
    cuts: list[tuple[str, float, Any]]
    packed: list[tuple[str, float, Any]]
    tokenizer: Any


EDITS = st.tuples(PLACES, st.sampled_from(["replace", "remove", "add", "swap"]), st.sampled_from(VALUES))
CUTS = st.tuples(
    st.sampled_from(["insert", "overwrite", "delete", "truncate", "repeat", "flip"]),
    PLACES,
    st.one_of(st.sampled_from(BYTES), st.binary(min_size=1, max_size=8)),
)
CASES = st.builds(
    Case,
    shape=PLACES,
    edits=st.lists(EDITS, max_size=3),
    cuts=st.lists(CUTS, max_size=3),
    packed=st.lists(CUTS, max_size=1),
    tokenizer=st.sampled_from(TOKENIZERS),
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Each list or object in the value, with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places_in(value[key]))]


def edited(rows: list[dict[str, Any]], edits: list[tuple[float, str, Any]]) -> list[dict[str, Any]]:
    rows = json.loads(json.dumps(rows))
    for place, how, made in edits:
        value = copy.deepcopy(made)
        places = places_in(rows)
        if not places:
            break
        inside, key = places[int(place * len(places))]
        if how == "remove":
            del inside[key]
        elif how == "add" and isinstance(inside, dict):
            inside["name" if place < 0.5 else "reasoning_content"] = value
        elif how == "swap":
            other, there = places[int(place * 7919) % len(places)]
            inside[key] = json.loads(json.dumps(other[there]))
        else:
            inside[key] = value
    return rows


def cut(data: bytes, cuts: list[tuple[str, float, Any]]) -> bytes:
    for how, place, chunk in cuts:
        at = int(place * len(data))
        match how:
            case "insert":
                data = data[:at] + chunk + data[at:]
            case "overwrite":
                data = data[:at] + chunk + data[at + len(chunk) :]
            case "delete":
                data = data[:at] + data[at + len(chunk) :]
            case "truncate":
                data = data[:at]
            case "repeat":
                data = data[: at + 50] + data[at:]
            case _ if data:
                data = data[:at] + bytes([data[at] ^ (1 << chunk[0] % 8)]) + data[at + 1 :]
    return data


def written(rows: list[Any], kind: str) -> bytes:
    """The rows as a file of this kind has them, as far as it can."""
    if kind == ".parquet":
        table = _table(rows)
        pyarrow.parquet.write_table(table, sink := io.BytesIO(), compression="none")
        return sink.getvalue()
    if kind == ".json":
        return json.dumps(rows).encode()
    if kind in SEPARATORS:
        separator = SEPARATORS[kind]
        rows = [row for row in rows if isinstance(row, dict)] or [{}]
        fields = [list(rows[0]), *([row.get(column) for column in rows[0]] for row in rows)]
        lines = (separator.join('"{}"'.format(str(field).replace('"', '""')) for field in line) for line in fields)
        return "\r\n".join(lines).encode("utf-8", "surrogatepass")
    if kind == ".txt":
        return "\n<|endoftext|>\n".join(map(str, rows)).encode("utf-8", "surrogatepass")
    return "\n".join(map(json.dumps, rows)).encode()


def _table(rows: list[Any]) -> Any:
    """A table of the rows; columns of mixed values as texts."""
    columns = {}
    objects = [row for row in rows if isinstance(row, dict)]
    for name in dict.fromkeys(name for row in objects for name in row):
        values = [row.get(name) for row in objects]
        try:
            columns[name] = pyarrow.array(values)
            pyarrow.parquet.write_table(pyarrow.table({name: columns[name]}), io.BytesIO())
        except (pyarrow.ArrowException, UnicodeError, OverflowError):
            columns[name] = pyarrow.array([ascii(value) for value in values])
    return pyarrow.table({str(name).encode("utf-8", "replace").decode(): column for name, column in columns.items()})


def file_of(case: Case, kind: str) -> bytes:
    shapes = FLAT if kind in (*SEPARATORS, ".txt") else [*NESTED, *FLAT]
    shape = shapes[int(case.shape * len(shapes))]
    rows = edited([shape(i) for i in range(9)], case.edits)
    data = cut(written(rows, kind.removesuffix(".gz")), case.cuts)
    return cut(gzip.compress(data, 1, mtime=0), case.packed) if kind.endswith(".gz") else data


def check(case: Case, kind: str, folder: Path) -> None:
    """Reads the file in every way that Inlay does. Raises whatever is not Inlay's own error of exit code 2."""
    path = folder / f"rows{kind}"
    path.write_bytes(file_of(case, kind))
    if kind in SEPARATORS:
        check_separator(path)
    try:
        describe(DataSettings(path=str(path)))
        opened = open_data(DataSettings(path=str(path)))
        if opened.layout.format == "labelled-text":
            classification_in(opened)
        else:
            tokens_of(case.tokenizer, generation_in(opened).splits["train"], 64, Problems())
    except InvalidRequest:  # exit code 2
        pass


def check_separator(path: Path) -> None:
    """Raises AssertionError if a file is read in another way than with the usual separator, where that makes a table of
    it."""
    usual, found = Problems(), Problems()
    plain = read_rows(path, usual, Reading(separator="tab" if path.suffix == ".tsv" else ","))
    if not usual.found() and len(plain[0].values) > 1:
        assert read_rows(path, found) == plain
        assert found.found() == []


def try_many(kind: str, folder: Path, examples: int) -> None:
    @seeded(examples)
    @given(CASES)
    def read(case: Case) -> None:
        with bounded():
            check(case, kind, folder)

    read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    try_many(kind, tmp_path, 72)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    try_many(kind, tmp_path, MANY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_damage_is_read(kind: str, tmp_path: Path) -> None:
    shapes = len(FLAT if kind in (*SEPARATORS, ".txt") else [*NESTED, *FLAT])
    for i in range(shapes):
        path = tmp_path / f"rows{kind}"
        path.write_bytes(file_of(Case(i / shapes, [], [], [], TOKENIZERS[0]), kind))
        report = describe(DataSettings(path=str(path)))
        assert [problem for problem in report.problems if problem.severity == "error"] == []
