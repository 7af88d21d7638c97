"""CSV as it is in the world: separators other than the comma, found out or named, and what is none."""

import codecs
from pathlib import Path

import pytest

from inlay.data.delimited import Quoting
from inlay.data.problems import Problems
from inlay.data.rows import read_rows
from inlay.data.settings import DataSettings, Reading
from inlay.data.source import open_source
from inlay.errors import DataError, SettingsError

from .files import write_text

SHEET = [
    ["Id", "TEXT", "LABEL"],
    ["1", "so, so; or\tnot | at all", "a"],
    ["2", 'she said "yes"', "b"],
    ["3", "two\nlines", "a"],
]
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def written(sheet: list[list[str]], separator: str, line_end: str = "\n") -> str:
    def field(text: str) -> str:
        return '"{}"'.format(text.replace('"', '""')) if any(c in text for c in f'{separator}"\n') else text

    return line_end.join([*(separator.join(map(field, line)) for line in sheet), ""])


def read(
    path: Path, text: str, separator: str | None = None, quoting: Quoting = "auto"
) -> tuple[list[list[object]], list[str]]:
    """The header and the rows, and what is said of the file."""
    problems = Problems()
    rows = read_rows(Path(write_text(path, text)), problems, Reading(separator=separator, quoting=quoting))
    header = [list(rows[0].values)] if rows else []
    return [*header, *(list(row.values.values()) for row in rows)], [
        f"{problem.severity}: {problem}" for problem in problems.found()
    ]


@pytest.mark.parametrize("mark", ["", codecs.BOM_UTF8.decode()], ids=["plain", "mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("separator", NAMES)
def test_each_separator_is_found_in_each_kind_of_file_and_said_unless_it_is_the_usual_one(
    separator: str, name: str, line_end: str, mark: str, tmp_path: Path
) -> None:
    found, said = read(tmp_path / name, mark + written(SHEET, separator, line_end))
    assert found == SHEET
    usual = "\t" if name.endswith(".tsv") else ","
    note = f"note: {name}: fields are separated by {NAMES[separator]}, found from its header; data.separator names "
    assert said == ([] if separator == usual else [f"{note}another"])


@pytest.mark.parametrize(
    "text",
    [
        written([["text", "label"], ["1;2", "a;b"], ["3;4", "c;d"]], ","),
        written([["text;more", "label;more"], ["1;2", "a;b"], ["3;4", "c;d"]], ","),
        written([["a|b", "c|d"], ["1|2", "3|4"]], ","),
        written([["text\tmore", "label\tmore"], ["1\t2", "a\tb"]], ","),
        "text\none; two\nthree; four\n",
        "text\none\ttwo\nthree\tfour\n",
        "text|more\nno bar\nno bar either\n",
        "text;more\na;b;c\nd\ne;f;g;h\n",
        '"text;more"\n"a;b"\n"c;d"\n',
        'text\n"one, two; three"\nfour; five\n',
    ],
)
def test_what_commas_can_be_read_from_is_read_with_commas(text: str, tmp_path: Path) -> None:
    found, said = read(tmp_path / "a.csv", text)
    assert (found, said) == (read(tmp_path / "a.csv", text, ",")[0], [])
    assert len(found) == len(text.splitlines())


def test_decimal_commas_are_no_separators(tmp_path: Path) -> None:
    sheet = [["text", "price", "label"], ["one", "1,5", "a"], ["two, so", "2,75", "b"]]
    assert read(tmp_path / "a.csv", written(sheet, ";"))[0] == sheet
    # A column whose name has a comma, so that commas part the header too.
    sheet[0][1] = "price, in euros"
    assert read(tmp_path / "a.csv", written(sheet, ";"))[0] == sheet


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=|", "sep=\t"])
def test_excels_first_line_names_the_separator_and_is_no_row(first: str, tmp_path: Path) -> None:
    separator = first.strip('"')[-1]
    problems = Problems()
    path = tmp_path / "a.csv"
    rows = read_rows(Path(write_text(path, f"{first}\r\n" + written(SHEET, separator, "\r\n"))), problems)
    assert [row.values["TEXT"] for row in rows] == [row[1] for row in SHEET[1:]]
    assert [row.place for row in rows] == ["a.csv:3", "a.csv:4", "a.csv:5"]
    assert [str(problem) for problem in problems.found()] == [
        f"a.csv: fields are separated by {NAMES[separator]}, as its first line says"
    ]


def test_a_column_that_is_called_like_it_is_one(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "sep=x,label\na,b\n") == ([["sep=x", "label"], ["a", "b"]], [])


def test_a_file_told_by_its_first_line_to_have_commas_has_commas(tmp_path: Path) -> None:
    text = "sep=,\na;b,c;d\n1;2,3;4\n"
    assert read(tmp_path / "a.csv", text) == ([["a;b", "c;d"], ["1;2", "3;4"]], [])


@pytest.mark.parametrize(("asked", "separator"), [("#", "#"), ("tab", "\t"), ("\\t", "\t"), (" ", " "), (";", ";")])
def test_a_separator_that_is_named_is_taken_and_not_told(asked: str, separator: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", written(SHEET, separator), asked) == (SHEET, [])
    # Against what the file itself shows, too.
    found, said = read(tmp_path / "a.csv", "sep=|\na|b,c\n1|2,3\n", ",")
    assert (found, said) == ([["a|b", "c"], ["1|2", "3"]], [])


@pytest.mark.parametrize("asked", ["", ";;", "a", "7", '"', "\n", "tabs"])
def test_what_cannot_separate_is_refused(asked: str) -> None:
    with pytest.raises(SettingsError, match="^data.separator is "):
        DataSettings(path="a.csv", separator=asked)


def test_a_separator_without_a_place_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.jsonl", '{"text": "a"}\n')
    for asked in (path, "builtin:tickets"):
        with pytest.raises(DataError, match="only .csv and .tsv files have one; leave it out"):
            open_source(asked, Problems(), Reading(separator=";"))
    write_text(tmp_path / "train.csv", "text;label\na;b\n")
    write_text(tmp_path / "valid.jsonl", '{"text": "a", "label": "b"}\n')
    assert open_source(str(tmp_path), Problems(), Reading(separator=";")).splits["train"][0].values == {
        "text": "a",
        "label": "b",
    }


def test_a_broken_row_is_told_with_the_separator_that_most_rows_have(tmp_path: Path) -> None:
    found, said = read(tmp_path / "a.csv", "Id;TEXT;LABEL\n1;one;a\n2;two; and more;b\n3;three;a\n")
    assert [row[0] for row in found] == ["Id", "1", "3"]
    assert said[0].startswith(
        "error: a.csv:3: the row has 4 fields, the header 3 (Id, TEXT, LABEL), separated by semicolons; a field that "
        "holds the separator or a line break must be in double quotes"
    )
    assert said[1].startswith("note: a.csv: fields are separated by semicolons")
    found, said = read(tmp_path / "a.csv", 'Id;TEXT\n1;one\n2;"never closed\n')
    assert found == []  # a part is not taken for the whole
    assert said[0].startswith("error: a.csv:3: the row cannot be split into fields, so the file is not read: a double")


UNQUOTED = [["Id", "TEXT", "LABEL"], ["1", '"Yes," she said', "a"], ["2", 'he said "no', "b"], ["3", '"', "a"]]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_quotes_between_tabs_are_letters_where_they_enclose_no_fields(name: str, tmp_path: Path) -> None:
    text = "".join("\t".join(row) + "\n" for row in UNQUOTED)
    found, said = read(tmp_path / name, text)
    assert found == UNQUOTED
    assert f"note: {name}: double quotes are letters here, since rows cannot be split otherwise" in said[-1]
    assert read(tmp_path / name, text, "tab", "none") == (UNQUOTED, [])
    found, said = read(tmp_path / name, text, "tab", "double")
    assert found == []
    assert said[0].startswith(f"error: {name}:2: the row cannot be split into fields")
    assert "the double quote that ends a field is followed neither by tabs nor by the line's end" in said[0]
    assert "\t" not in said[0]
    # With a row that has too many fields, which is the only one told.
    found, said = read(tmp_path / name, text + "4\ta\tb\tc\n")
    assert found == UNQUOTED
    assert said[0].startswith(f"error: {name}:5: the row has 4 fields")


def test_a_quote_that_swallows_the_ends_of_lines_is_a_letter(tmp_path: Path) -> None:
    sheet = [["TEXT", "LABEL"], ['"so', "a"], ["no", "b"], ['said"', "a"]]  # with quotes one row of two fields
    assert read(tmp_path / "a.tsv", "".join("\t".join(row) + "\n" for row in sheet))[0] == sheet


@pytest.mark.parametrize("sheet", [SHEET, [["TEXT"], ['a "b"\nc'], ["d"]], [["TEXT", "LABEL"], ["a\nb", "c\nd"]]])
def test_what_is_quoted_well_is_read_with_quotes(sheet: list[list[str]], tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", written(sheet, "\t")) == (sheet, [])


def test_without_quotes_any_separator_can_be_read(tmp_path: Path) -> None:
    text = "".join(";".join(row) + "\n" for row in UNQUOTED)
    found, said = read(tmp_path / "a.csv", text)
    assert found == []
    assert "neither by semicolons nor by the line's end" in said[0]
    assert "--data.quoting none" in said[0]
    assert read(tmp_path / "a.csv", text, quoting="none")[0] == UNQUOTED


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    for header in ("text,label", "text;label", "text", "sep=;", "sep=;\ntext;label"):
        assert "error: a.csv: has no rows" in read(tmp_path / "a.csv", f"{header}\n")[1]


def test_what_a_spreadsheet_adds_beneath_and_at_the_right_is_nothing(tmp_path: Path) -> None:
    for separator in ",;":
        text = written([["text", "label", "", ""], ["a", "b", "", ""], ["", "", "", ""], ["c", "d", "", ""]], separator)
        found, said = read(tmp_path / "a.csv", text)
        assert found == [["text", "label"], ["a", "b"], ["c", "d"]]
        assert not any("error" in line for line in said)
    # A value is never left out, nor a column that has some.
    assert read(tmp_path / "a.csv", "text,label,\na,b,\nc,d,e\n")[0][0] == ["text", "label", ""]
    assert read(tmp_path / "a.csv", "text,,\na,b,c\n")[1] == ["error: a.csv:1: columns named twice: (without a name)"]


def test_files_that_belong_together_are_told_of_once(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_text(tmp_path / f"{split}.csv", "text;label\na;b\n")
    problems = Problems()
    open_source(str(tmp_path), problems)
    assert [str(problem) for problem in problems.found()] == [
        "train.csv: fields are separated by semicolons, found from its header; data.separator names another"
    ]
