"""Files whose text is in another encoding, damaged, packed without a bound, or no file at all."""

import gzip
import os

import pytest

from inlay.data.parquet import parquet_rows
from inlay.data.problems import Problems
from inlay.data.rows import read_rows
from inlay.data.settings import DataSettings, Reading
from inlay.data.text_file import SMALLEST_BOUND
from inlay.errors import SettingsError

from .files import open_splits, write_text

SHEET = "text,label\nÜbergröße und café,1\n"


def told(path) -> list[str]:
    problems = Problems()
    rows = read_rows(path, problems)
    assert rows == []
    return [str(problem) for problem in problems.found()]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp1252", "Windows-1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_the_encoding_is_named_and_how_to_save_the_file(tmp_path, encoding, name):
    path = tmp_path / "a.csv"
    path.write_bytes(SHEET.encode(encoding))
    (message,) = told(path)
    assert name in message
    assert f"iconv -f {name.upper()} -t UTF-8 OLD > NEW" in message
    assert 'in Excel: Save As, "CSV UTF-8"' in message
    converted = write_text(tmp_path / "b.csv", path.read_bytes().decode(encoding))
    assert [row.values["label"] for row in open_splits(converted)["train"]] == ["1"]


@pytest.mark.parametrize(
    "label", ["1", "a label in ASCII that is so long that few letters of all are of another alphabet"]
)
def test_an_encoding_that_cannot_be_told_is_not_guessed(label, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\nтекст и ещё,{label}\n".encode("cp1251"))
    message = "a.csv:2: byte 11 of the file is 0xf2, which is not UTF-8; save the file as UTF-8"
    assert told(path) == [f'{message} (in Excel: Save As, "CSV UTF-8")']


def test_a_file_that_ends_within_a_character_is_called_cut(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "é'.encode()[:-1])
    assert told(tmp_path / "a.jsonl") == [
        "a.jsonl:1: byte 10 of the file is 0xc3, which is not UTF-8: the file ends within a character, so its end is "
        "missing; get it whole"
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_a_nul_character_is_damage(tmp_path, name):
    message = told(write_and_path(tmp_path / name, "text,label\na\0b,1\n"))
    assert message[0].startswith(
        f"{name}:2: holds a NUL character, so the file is damaged, or no text; take the character"
    )


def write_and_path(path, text):
    write_text(path, text)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.jsonl", ['{"text": "a"}', '{"text": "b\\rc"}', '{"text": "\u2028"}']),
        ("a.csv", ["text", "a", "b", "\u2028"]),
    ],
)
def test_lines_may_end_in_any_way(tmp_path, name, lines, end):
    path = write_text(tmp_path / name, "\ufeff" + end.join(lines) + end)
    rows = open_splits(path)["train"]
    assert [row.values["text"] for row in rows] == ["a", "b\rc" if name == "a.jsonl" else "b", "\u2028"]
    assert rows[2].place == f"{name}:{3 if name == 'a.jsonl' else 4}"
    mixed = write_text(tmp_path / name, "\n".join(lines[:2]) + "\r\n" + "\r".join(lines[2:]) + "\r\n")
    assert open_splits(mixed)["train"] == rows


def test_a_field_may_be_as_long_as_the_file(tmp_path):
    book = "word " * 40_000
    rows = open_splits(write_text(tmp_path / "a.csv", f'text,label\n"{book}",1\n'))["train"]
    assert rows[0].values == {"text": book, "label": "1"}


def test_a_file_that_unpacks_without_a_bound_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(SMALLEST_BOUND // 1_000_000 + 1):
            file.write(b'{"text": "' + b"a" * 1_000_000 + b'"}\n')
    assert told(path) == [
        "a.jsonl.gz: unpacks to more than 64 MB, as a damaged or hostile file does; if it is meant, allow more with "
        "data.unpacked_megabytes, or unpack it first"
    ]
    assert len(read_rows(path, Problems(), Reading(unpacked_megabytes=100))) == 65
    assert "unpacks to more than 1 MB" in str([*_problems_of(path, 1)])
    with pytest.raises(SettingsError, match=r"data.unpacked_megabytes is 0; it must be at least 1"):
        DataSettings(path="a", unpacked_megabytes=0)


def _problems_of(path, megabytes: int):
    problems = Problems()
    read_rows(path, problems, Reading(unpacked_megabytes=megabytes))
    return map(str, problems.found())


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    assert told(tmp_path / "a.jsonl") == ["a.jsonl: is no regular file; write the rows into one"]


def test_a_key_twice_in_an_object_is_an_error(tmp_path):
    path = write_and_path(tmp_path / "a.jsonl", '{"text": "a", "text": "b"}\n')
    assert told(path) == [
        'a.jsonl:1: the row cannot be read: an object has the key "text" twice, of which one value would be lost'
    ]


def test_a_row_of_a_hundred_levels_is_too_deep(tmp_path):
    path = write_and_path(tmp_path / "a.jsonl", '{"text": ' + "[" * 150 + "]" * 150 + "}\n")
    assert told(path) == ["a.jsonl:1: the row has more than 100 lists and objects within one another; write it flatter"]


def test_texts_that_rows_of_parquet_share_are_counted_for_each(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    texts = pyarrow.array(["x" * 1_000_000]).take(pyarrow.array([0] * 80))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    assert path.stat().st_size < 200_000
    assert told(path)[0].startswith("a.parquet: unpacks to more than 64 MB")
    assert len(list(parquet_rows(path, Problems(), megabytes=100))) == 80


def test_a_value_that_python_lacks_is_told_only_where_it_is_used(tmp_path):
    import pyarrow
    import pyarrow.parquet

    from inlay.data.classification import load_classification
    from inlay.errors import DataError

    when = pyarrow.array([2**62, *range(19)], type=pyarrow.int64()).view(pyarrow.timestamp("us"))
    texts = [f"text {i}" for i in range(20)]
    table = pyarrow.table({"text": texts, "label": [i % 2 for i in range(20)], "when": when})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    asked = DataSettings(path=str(tmp_path / "a.parquet"))
    assert load_classification(asked).ignored_columns == ("when",)
    with pytest.raises(DataError, match=r"a.parquet row 1: when is a timestamp\[us\] that cannot be read"):
        load_classification(DataSettings(path=str(tmp_path / "a.parquet"), label="when"))
