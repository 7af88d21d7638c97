"""Answers to a file, written as a file: each row's number, its own columns as they were, and its answer."""

import csv
import datetime
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pandas
import pytest

import inlay
from inlay.cli import main
from inlay.cli.answers_file import write_answers
from inlay.data.rows import Row
from inlay.errors import DataError

from ..tiny_models import reviews, write_rows


@pytest.fixture(scope="module")
def run(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    rows = write_rows(folder / "rows.jsonl", reviews(60))
    short = "--epochs 1 --no-forgetting --evaluations-per-epoch 1 --dtype float32"
    assert main(shlex.split(f"train {tiny_bert} {rows} {short} --out {folder / 'run'}")) == 0
    return folder / "run"


def read_csv(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_every_row_keeps_its_number_and_its_columns(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    given = [("7", 'a good; film, "so"\nit is'), ("3", "bad"), ("7", "bad")]
    with (tmp_path / "new.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("Id", "TEXT"), *given])
    out = tmp_path / f"answers.{ending}"
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new.csv"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said == f"answers {out}: 3 rows with row, Id, TEXT, predicted, probability\n"
    written: list[dict[str, Any]]
    written = (
        [*map(json.loads, out.read_text(encoding="utf-8").splitlines())]
        if ending == "jsonl"
        else read_csv(out, {"csv": ";", "tsv": "\t"}[ending])
    )
    assert [(int(w["row"]), w["Id"], w["TEXT"]) for w in written] == [(i, *row) for i, row in enumerate(given, 1)]
    assert main(["predict", str(run), str(tmp_path / "new.csv"), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [w["predicted"] for w in written] == [each["label"] for each in answers]
    assert [float(w["probability"]) for w in written] == pytest.approx([a["probability"] for a in answers], abs=1e-6)


@pytest.mark.parametrize("begins", ["", "\ufeff", "sep=;\n"])
@pytest.mark.parametrize("separator", [";", ",", "|", "\t"])
def test_a_csv_is_written_as_the_file_was(run: Path, tmp_path: Path, begins: str, separator: str) -> None:
    begins = begins.replace(";", separator)
    (tmp_path / "new.csv").write_text(f"{begins}Id{separator}Text\n1{separator}schön gut\n", encoding="utf-8")
    for name in ("a.csv", "a.jsonl"):
        assert main(["predict", str(run), str(tmp_path / "new.csv"), "--out", str(tmp_path / name)]) == 0
    written = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert written.startswith(f"{begins}row{separator}Id{separator}Text{separator}predicted{separator}probability\n1")
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["Text"] == "schön gut"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("csv", ("sep=;", "Id;Text", '1;"so\ngood"')),
        ("tsv", ("Id\tText", "1\tgood")),
        ("jsonl", ('{"Id": 1, "Text": "good"}', '{"Id": 2, "Text": "bad"}')),
        ("txt", ("good", "bad")),
    ],
)
def test_lines_end_as_those_of_the_file(run: Path, tmp_path: Path, kind: str, rows: tuple[str, ...], end: str) -> None:
    (tmp_path / f"new.{kind}").write_bytes("".join(row + end for row in rows).encode())
    for name in ("csv", "tsv", "jsonl"):
        out = tmp_path / f"out.{name}"
        assert main(["predict", str(run), str(tmp_path / f"new.{kind}"), "--out", str(out)]) == 0
        written = out.read_bytes().decode().replace("so\ngood", "so good")
        assert written.endswith(end)
        assert written.count("\n") == written.count(end) > 0
        assert ("\r" in written) == ("\r" in end)


def test_a_file_without_quoting_gets_answers_without(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('Id\tText\n1\t"so" good\n2\t"bad\n', encoding="utf-8")
    assert main(["predict", str(run), str(tmp_path / "new.csv"), "--out", str(tmp_path / "a.csv")]) == 0
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert [line.rpartition("\t")[0].rpartition("\t")[0] for line in lines[1:]] == ['1\t1\t"so" good', '2\t2\t"bad']


GAPS = "Id;Text\n1;good\n2;\n3;bad\n4; \n"


def test_a_row_without_a_text_keeps_its_place(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text(GAPS, encoding="utf-8")
    asked = ["predict", str(run), str(tmp_path / "new.csv")]
    note = "note    2 of 4 rows have no text and get an empty answer: lines 3 and 5\n"
    capsys.readouterr()
    assert main([*asked, "--json"]) == 0
    said = capsys.readouterr()
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert [each["label"] is None for each in answers] == [False, True, False, True]
    nothing = {"pair": None, "label": None, "probability": None, "probabilities": None}
    assert (answers[1], said.err) == ({"text": "", **nothing}, note)
    assert main(asked) == 0
    said = capsys.readouterr()
    assert [line == "" for line in said.out.splitlines()] == [False, True, False, True]
    assert main([*asked, "--out", str(tmp_path / "a.csv")]) == 0
    assert capsys.readouterr().err == said.err == note
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[2::2] == ["2;2;;;", "4;4; ;;"]


def test_a_blank_line_of_standard_input_keeps_its_place(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("good\n\nbad\n"))
    assert main(["predict", str(run)]) == 0
    said = capsys.readouterr()
    assert [line == "" for line in said.out.splitlines()] == [False, True, False]
    assert said.err == "note    1 of 3 lines has no text and gets an empty answer: line 2\n"


@pytest.mark.parametrize("given", [[], ["-"]])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_standard_input_is_read_where_a_dash_or_nothing_stands(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    ending: str,
) -> None:
    capsys.readouterr()
    answers = []
    for asked in ([], ["--out", str(tmp_path / f"a.{ending}")]):
        monkeypatch.setattr("sys.stdin", io.StringIO("good; film\n\nbad\n"))
        assert main(["predict", str(run), *given, *asked]) == 0
        answers.append(capsys.readouterr())
        assert answers[-1].err == "note    1 of 3 lines has no text and gets an empty answer: line 2\n"
    assert answers[1].out == f"answers {tmp_path}/a.{ending}: 3 rows with row, text, predicted, probability\n"
    text = (tmp_path / f"a.{ending}").read_text()
    written = [*map(json.loads, text.splitlines())] if ending == "jsonl" else read_csv(tmp_path / "a.csv")
    assert [(int(row["row"]), row["text"]) for row in written] == [(1, "good; film"), (2, ""), (3, "bad")]
    assert [row["predicted"] or "" for row in written] == [
        line.partition("\t")[0] for line in answers[0].out.splitlines()
    ]


def test_standard_input_without_a_text_is_no_file_of_answers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    assert main(["predict", str(run), "-", "--out", str(tmp_path / "a.csv")]) == 2
    assert "standard input: has no text" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("command", ["data -", "eval RUN -", "predict RUN - --out -", "train builtin:minilm -"])
def test_a_dash_elsewhere_is_refused(run: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) if word == "RUN" else word for word in command.split()]) == 2
    assert "- is standard input, and only the INPUT of inlay predict can be that" in capsys.readouterr().err


def test_in_python_an_empty_text_has_no_answer(run: Path) -> None:
    opened = inlay.open(run)
    of_pandas = [pandas.Series, pandas.Categorical, lambda texts: pandas.array(texts, dtype="string")]
    rows = [{"text": "good"}, {"text": None}]
    for inputs in (["good", ""], ["good", None], rows, *(make(["good", None]) for make in of_pandas)):
        found, none = opened.predict(inputs)
        assert found["label"] in ("positive", "negative")
        assert none == {"text": "", "pair": None, "label": None, "probability": None, "probabilities": None}
    assert opened.predict(["good", ""])[0] == opened.predict("good")
    for text in ("", " "):
        with pytest.raises(DataError, match="the text is empty"):
            opened.predict(text)
    with pytest.raises(DataError, match="the second text of the pair is empty"):
        opened.predict("good", pair="")
    for each in ([], ("good",), ("good", "bad", "")):
        with pytest.raises(DataError, match="input 2 has . texts?; give one text, or a pair of two"):
            opened.predict(["good", each])


def test_lines_of_a_text_are_numbered(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("good\nbad\n", encoding="utf-8")
    assert main(["predict", str(run), str(tmp_path / "in.txt"), "--out", str(tmp_path / "a.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {
        "out": str(tmp_path / "a.csv"), "rows": 2, "columns": ["row", "text", "predicted", "probability"],
    }  # fmt: skip
    assert [(row["row"], row["text"]) for row in read_csv(tmp_path / "a.csv")] == [("1", "good"), ("2", "bad")]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{rows} --out {rows}", "--out {rows} is there already; name another file, or remove it"),
        ("{rows} --out a.xlsx", "--out is a.xlsx; answers are written as .csv, .tsv or .jsonl: name it so"),
        ('"a text" --out a.csv', "--out is for the answers to a file or to standard input; leave it out for one text"),
    ],
)
def test_out_that_cannot_be_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, complaint: str
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", reviews(4))
    assert main(["predict", str(run), *shlex.split(arguments.format(rows=rows))]) == 2
    assert capsys.readouterr().err == f"inlay: {complaint.format(rows=rows)}\n"
    assert len(Path(rows).read_text(encoding="utf-8").splitlines()) == 4


def test_columns_that_are_there_already_stay(tmp_path: Path) -> None:
    rows = [Row({"predicted": "a", "row": 9, "tags": ["x"]}, "r:1"), Row({"on": datetime.date(2026, 1, 2)}, "r:2")]
    answers = [{"predicted": "b"}, {"predicted": "c"}]
    expected = ["row_2", "predicted", "row", "tags", "on", "predicted_2"]
    assert write_answers(tmp_path / "a.csv", rows, answers) == expected
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == [
        ",".join(expected),
        '1,a,9,"[""x""]",,b',
        "2,,,,2026-01-02,c",
    ]
    write_answers(tmp_path / "a.jsonl", rows, answers)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()] == [
        {"row_2": 1, "predicted": "a", "row": 9, "tags": ["x"], "predicted_2": "b"},
        {"row_2": 2, "on": "2026-01-02", "predicted_2": "c"},
    ]


def test_rows_that_cannot_be_read_keep_their_place_where_some_may_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"text": "a good film", "id": 1}', '{"text": "half', '{"text": 7, "id": 3}', '{"text": "bad", "id": 4}']
    (tmp_path / "new.jsonl").write_text("\n".join(rows))
    out = tmp_path / "answers.jsonl"
    asked = ["predict", str(run), str(tmp_path / "new.jsonl"), "--out", str(out)]
    assert main(asked) == 2
    capsys.readouterr()
    assert main([*asked, "--data.skip-faulty", "0.5"]) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["row"], line.get("id"), bool(line["predicted"])) for line in written] == [
        (1, 1, True),
        (2, None, False),
        (3, 3, False),
        (4, 4, True),
    ]
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" at ")[0] for line in said] == [
        "note    skipped: new.jsonl:2: the row is not JSON: Unterminated string starting",
        "note    skipped: new.jsonl:3: text is 7, not a text",
        "note    skipped: new.jsonl: 2 of 4 rows are faulty (50.0 %); data.skip_faulty allows 50 %",
        "note    2 of 4 rows have no text and get an empty answer: lines 2 and 3",
    ]
    found = inlay.open(run).predict([{"text": "good"}, {"text": 7}], skip_faulty=0.5)
    assert [bool(each["label"]) for each in found] == [True, False]
