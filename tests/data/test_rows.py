import codecs
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from inlay.errors import DataError

from .files import open_splits, write_jsonl, write_text

ROWS = [{"text": "one, two", "label": "a"}, {"text": 'three "four"\nfive\u2028six', "label": "b"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'text,label\n"one, two",a\n"three ""four""\nfive\u2028six",b\n'
CONTENT = {
    ".jsonl": JSONL,
    ".json": json.dumps(ROWS),
    ".csv": CSV,
    ".tsv": CSV.replace("t,l", "t\tl").replace('",', '"\t'),
}


def values(path: str) -> list[dict]:
    return [row.values for row in open_splits(path)["train"]]


def places(path: str) -> list[str]:
    return [row.place for row in open_splits(path)["train"]]


def complaint(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        open_splits(str(path))
    return str(caught.value)


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("extension", CONTENT)
def test_every_text_format_gives_the_same_rows(tmp_path, extension, compression):
    assert values(write_text(tmp_path / f"data{extension}{compression}", CONTENT[extension])) == ROWS


def test_a_parquet_file_gives_the_same_rows(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    assert values(str(tmp_path / "data.parquet")) == ROWS
    assert places(str(tmp_path / "data.parquet")) == ["data.parquet row 1", "data.parquet row 2"]


@pytest.mark.parametrize("extension", CONTENT)
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, extension):
    path = tmp_path / f"data{extension}"
    path.write_bytes(codecs.BOM_UTF8 + CONTENT[extension].encode())
    assert list(values(str(path))[0]) == ["text", "label"]


@pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv"])
def test_windows_line_ends_are_no_part_of_the_values(tmp_path, extension):
    text = {".jsonl": '{"text": "a"}\r\n{"text": "b"}\r\n', ".json": '[{"text": "a"},\r\n{"text": "b"}]\r\n'}
    path = write_text(tmp_path / f"data{extension}", text.get(extension, "text\r\na\r\nb\r\n"))
    assert values(path) == [{"text": "a"}, {"text": "b"}]


def test_an_upper_case_extension_is_known(tmp_path):
    assert values(write_text(tmp_path / "DATA.JSONL", JSONL)) == ROWS


def test_blank_lines_are_skipped_and_lines_are_counted_all_the_same(tmp_path):
    path = write_text(tmp_path / "data.jsonl", '\n{"text": "a"}\n  \n{"text": "b"}\n\n')
    assert places(path) == ["data.jsonl:2", "data.jsonl:4"]
    path = write_text(tmp_path / "data.csv", 'text,label\n\n"two\nlines",a\nb,b\n')
    assert places(path) == ["data.csv:3", "data.csv:5"]


def test_rows_of_a_json_list_are_numbered(tmp_path):
    assert places(write_text(tmp_path / "data.json", json.dumps(ROWS))) == ["data.json row 1", "data.json row 2"]


def test_a_truncated_row_is_reported_with_its_line(tmp_path):
    message = complaint(write_text(tmp_path / "data.jsonl", '{"text": "a"}\n{"text": "b"\n{"text": "c"}\n'))
    assert message == "data.jsonl:2: the row is not JSON: Expecting ',' delimiter at column 13"


def test_the_first_lines_with_a_problem_are_named(tmp_path):
    for count, where in ((5, "lines 1, 2, 3, 4 and 5"), (6, "lines 1, 2, 3, 4, 5 and 1 more")):
        message = complaint(write_text(tmp_path / "data.jsonl", "nope\n" * count))
        assert message.endswith(f"at column 1 ({count} rows have this: {where})")


def test_rows_with_the_same_problem_are_counted_in_one_message(tmp_path):
    message = complaint(write_text(tmp_path / "data.jsonl", '{"text": "a"}\n[1]\nnope\n"x"\n[2]\n'))
    assert message.splitlines() == [
        "data.jsonl:2: the row is a list; it must be an object with the columns as keys "
        "(3 rows have this: lines 2, 4 and 5)",
        "data.jsonl:3: the row is not JSON: Expecting value at column 1",
    ]


@pytest.mark.parametrize("nonsense", ["[" * 100_000, "9" * 5000], ids=["nested", "huge integer"])
def test_json_that_python_gives_up_on_is_reported_too(tmp_path, nonsense):
    assert complaint(write_text(tmp_path / "data.jsonl", f"{nonsense}\n")).startswith("data.jsonl:1: the row ")


def test_half_of_a_surrogate_pair_is_reported_with_its_line(tmp_path):
    message = complaint(write_text(tmp_path / "data.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}\n'))
    assert message == "data.jsonl:2: the row holds half of a character, \\ud83d; write it as UTF-8"


def test_a_json_file_must_hold_a_list(tmp_path):
    message = complaint(write_text(tmp_path / "data.json", '{"text": "a"}'))
    assert message == "data.json: the file holds an object; it must hold a list of objects"


def test_json_lines_under_the_name_json_are_told_their_name(tmp_path):
    message = complaint(write_text(tmp_path / "data.json", '{"text": "a"}\n{"text": "b"}\n'))
    assert message.startswith("data.json:2: the file is not JSON: Extra data")
    assert message.endswith("name it .jsonl")


@pytest.mark.parametrize("row", ["a", "a,b,c"], ids=["too few", "too many"])
def test_a_csv_row_with_the_wrong_number_of_fields_is_reported_with_its_line(tmp_path, row):
    message = complaint(write_text(tmp_path / "data.csv", f"text,label\nfine,a\n{row}\nfine,b\n{row}\n"))
    fields = len(row.split(","))
    assert message.startswith(f"data.csv:3: the row has {fields} fields, the header 2 (text, label)")
    assert message.endswith("(2 rows have this: lines 3 and 5)")


def test_a_quote_that_is_never_closed_is_reported_where_it_opens(tmp_path):
    message = complaint(write_text(tmp_path / "data.csv", 'text,label\nfine,a\n"open,a\nfine,b\n'))
    assert message.startswith("data.csv:3: the row cannot be split into fields")


def test_a_column_named_twice_is_reported(tmp_path):
    assert complaint(write_text(tmp_path / "data.csv", "text,text\na,b\n")) == "data.csv:1: columns named twice: text"


@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8], ids=["no BOM", "BOM"])
def test_a_byte_that_is_not_utf_8_is_reported_with_its_position(tmp_path, bom):
    path = tmp_path / "data.csv"
    start = bom + b"text,label\ncaf"
    path.write_bytes(start + b"\xe9,a\n")
    assert complaint(path) == (
        f"data.csv:2: byte {len(start)} of the file is 0xe9, which is not UTF-8 (the file looks like Windows-1252); "
        'save the file as UTF-8 (in Excel: Save As, "CSV UTF-8"), or convert it: '
        "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )


def test_utf_16_is_recognised(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes("text,label\na,b\n".encode("utf-16"))
    assert "looks like UTF-16" in complaint(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", ""), ("a.json", "[]"), ("a.csv", ""), ("a.csv", "text,label\n")],
)
def test_a_file_without_rows_is_an_error(tmp_path, name, text):
    assert complaint(write_text(tmp_path / name, text)) == f"{name}: has no rows"


def test_a_file_of_bad_rows_is_not_called_empty_as_well(tmp_path):
    write_text(tmp_path / "train.jsonl", "nope\n")
    write_text(tmp_path / "valid.jsonl", "nope\n")
    message = complaint(tmp_path)
    assert message == (
        "train.jsonl:1: the row is not JSON: Expecting value at column 1 "
        "(2 rows have this: train.jsonl:1 and valid.jsonl:1)"
    )


def test_damaged_gzip_and_parquet_files_are_reported(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(JSONL.encode())[:-12])
    write_jsonl(tmp_path / "plain.jsonl", ROWS).encode()
    (tmp_path / "plain.jsonl").rename(tmp_path / "plain.jsonl.gz")
    (tmp_path / "not.parquet").write_bytes(b"text")
    for name in ("cut.jsonl.gz", "not.parquet"):
        assert complaint(tmp_path / name).startswith(f"{name}: cannot be read")
    (tmp_path / "plain.jsonl.gz").write_bytes(JSONL.encode())
    assert complaint(tmp_path / "plain.jsonl.gz").startswith("plain.jsonl.gz: cannot be read: Not a gzipped file")


def test_a_plain_text_is_one_document_or_several_that_a_line_ends(tmp_path):
    text = "\n\nOne.\n\nStill one.\n\n<|endoftext|>\n\n<|endoftext|>\n  Two,\nwith <|endoftext|> inside.\n"
    path = write_text(tmp_path / "a.txt", text)
    assert values(path) == [{"text": "One.\n\nStill one."}, {"text": "  Two,\nwith <|endoftext|> inside."}]
    assert places(path) == ["a.txt:3", "a.txt:10"]
    assert values(write_text(tmp_path / "b.txt.gz", "\ufeffone\r\n\r\ntwo\r\n<|endoftext|>\r\nthree")) == [
        {"text": "one\n\ntwo"},
        {"text": "three"},
    ]
    assert complaint(write_text(tmp_path / "c.txt", " \n<|endoftext|>\n")) == "c.txt: has no rows"


def test_a_byte_order_mark_between_files_put_together_is_no_part_of_a_row(tmp_path):
    path = write_text(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n')
    assert values(path) == [{"text": "a"}, {"text": "b"}]
