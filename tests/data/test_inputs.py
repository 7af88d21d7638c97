import json
from pathlib import Path

import pytest

from inlay.data.delimited_style import Style
from inlay.data.inputs import lacks_text, read_inputs
from inlay.errors import DataError

from .files import write_jsonl, write_text

ONE = {"text": "sentence", "label": "label"}
PAIR = {"text": "premise", "text_pair": "hypothesis", "label": "label"}


def complaint(path: object, columns: dict[str, str]) -> str:
    with pytest.raises(DataError) as caught:
        read_inputs(str(path)).texts(columns)
    return str(caught.value)


@pytest.mark.parametrize("name", ["in.txt", "in.txt.gz"])
def test_a_text_file_has_one_text_a_line(tmp_path, name):
    path = write_text(tmp_path / name, "\ufefffirst\r\n second, with a comma\r\nthird\u2028still third\n")
    assert read_inputs(path).texts(ONE) == [
        ("first", None),
        (" second, with a comma", None),
        ("third\u2028still third", None),
    ]


def test_rows_need_no_label(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [{"sentence": "a"}, {"id": 1, "sentence": "b"}])
    assert read_inputs(path).texts(ONE) == [("a", None), ("b", None)]


def test_pairs_are_read_from_their_columns(tmp_path):
    path = write_text(tmp_path / "in.csv", "hypothesis,premise\nh1,p1\nh2,p2\n")
    assert read_inputs(path).texts(PAIR) == [("p1", "h1"), ("p2", "h2")]


def test_a_text_file_cannot_hold_pairs(tmp_path):
    message = complaint(write_text(tmp_path / "in.txt", "a\n"), PAIR)
    assert message.endswith("give a file with the columns premise and hypothesis")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_blank_line_keeps_its_place_and_the_end_of_the_last_is_no_line(tmp_path, end):
    found = read_inputs(write_text(tmp_path / "in.txt", f"a\n\nb\n \nc\n\nd{end}"))
    assert [text for text, _ in found.texts(ONE)] == ["a", "", "b", " ", "c", "", "d"]
    assert found.rows[-1].place == "in.txt:7"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.jsonl", '{"text": "a"}\n\n{"text": ""}\n  \n{"text": "d"}\n\n'),
        ("in.csv", 'text,id\na,1\n\n"",2\n\r\nd,3\n\n'),
        ("in.csv", 'text\na\n\n""\n\nd\n\n'),
        ("in.tsv", "text\tid\na\t1\n\n\t2\n\nd\t3\n\n"),
    ],
)
def test_a_blank_line_between_rows_is_none(tmp_path, name, text):
    found = read_inputs(write_text(tmp_path / name, text))
    assert [text for text, _ in found.texts({"text": "text"})] == ["a", "", "d"]
    assert [row.place for row in found.rows] == [
        f"{name}:{line}" for line in ((1, 3, 5) if "json" in name else (2, 4, 6))
    ]


def test_a_row_without_a_text_keeps_its_place(tmp_path):
    rows = [
        {"premise": "a", "hypothesis": "b"},
        {"premise": None, "hypothesis": "b"},
        {"premise": "a", "hypothesis": " "},
    ]
    texts = read_inputs(write_jsonl(tmp_path / "in.jsonl", rows)).texts(PAIR)
    assert texts == [("a", "b"), ("", "b"), ("a", " ")]
    assert [lacks_text(each) for each in texts] == [False, True, True]
    assert complaint(write_jsonl(tmp_path / "in.jsonl", [{"sentence": ""}, {"sentence": 5}]), ONE) == (
        "in.jsonl:2: sentence is 5, not a text"
    )


def test_what_lacks_a_text():
    assert all(map(lacks_text, ("", " \n", None, ("", None), ("a", ""), [])))
    assert not any(map(lacks_text, ("a", ("a", None), ("a", "b"), [{"role": "user", "content": "a"}])))


def test_a_missing_column_is_reported_with_its_line(tmp_path):
    path = write_text(tmp_path / "in.json", json.dumps([{"sentence": "a"}, {"sentense": "b"}, {"prompt": "c"}]))
    assert complaint(path, ONE) == (
        'in.json row 2: no column "sentence"; did you mean sentense? The columns are sentense '
        "(2 rows have this: rows 2 and 3)"
    )


def test_files_that_are_missing_or_empty_or_of_another_kind_are_errors(tmp_path):
    assert complaint(write_text(tmp_path / "in.txt", "\n \n"), ONE) == "in.txt: has no text"
    assert complaint(write_text(tmp_path / "in.jsonl", ""), ONE) == "in.jsonl: has no rows"
    assert complaint(tmp_path / "im.txt", ONE).endswith(f"no such file; did you mean {tmp_path / 'in.txt'}?")
    assert "known: .jsonl, .json, .csv, .tsv, .txt, .jsonl.gz" in complaint(write_text(tmp_path / "in.pdf", "x"), ONE)


def test_a_table_is_read_once_for_its_rows_and_its_style(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_bytes("\ufeffsep=;\r\ntext;more\r\nhello;1\r\n".encode())
    read, own = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or own(path))
    found = read_inputs(str(tmp_path / "a.csv"))
    assert found.rows[0].values == {"text": "hello", "more": "1"}
    assert found.style == Style(separator=";", marked=True, told=True, line_end="\r\n")
    assert read == ["a.csv"]
