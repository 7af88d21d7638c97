"""Rows that cannot be used are left out, if that is asked for and they are few; they are never left out in silence."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from inlay.data.classification import Learned, classification_in, load_classification
from inlay.data.describe import describe
from inlay.data.formats import open_data
from inlay.data.generation import load_generation
from inlay.data.inputs import read_inputs
from inlay.data.settings import DataSettings, Reading
from inlay.data.tokens import tokenize_generation
from inlay.errors import DataError

from .chat_tokenizers import CHATML, GEMMA, byte_level
from .conversations import FINE, HELLO, SYSTEM, chat
from .files import labelled, write_jsonl, write_text

FAULTY: list[Any] = [
    '{"text": "broken',
    '["no object"]',
    '{"text": "no label"}',
    '{"text": "", "label": "yes"}',
    '{"text": null, "label": null}',
    '{"text": "no class", "label": 0.5}',
    '{"text": "of another kind", "label": 1}',
    '{"text": 12, "label": "yes"}',
    '{"text": "half of a character \\ud800", "label": "no"}',
    '{"messages": [{"role": "user", "content": "of another format"}]}',
]


def lines(path: Path, rows: list[dict[str, Any]], faulty: list[str]) -> str:
    """A file in which the faulty lines stand between the rows, and not at its start."""
    good = [json.dumps(row) for row in rows]
    return write_text(path, "\n".join([good[0], *faulty, *good[1:]]) + "\n")


def complaint(path: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_classification(DataSettings(path=path, **settings))
    return str(caught.value)


def test_what_is_left_is_what_the_file_without_these_rows_has(tmp_path: Path) -> None:
    rows = labelled(60)
    data = load_classification(
        DataSettings(path=lines(tmp_path / "train.jsonl", rows, FAULTY), skip_faulty=0.15),
    )
    good = load_classification(DataSettings(path=write_jsonl(tmp_path / "good.jsonl", rows)))
    for split in ("train", "valid"):
        assert [(each.text, each.label) for each in data.splits[split]] == [
            (each.text, each.label) for each in good.splits[split]
        ]
    assert data.labels == good.labels
    told = [problem.told for problem in data.warnings if problem.severity == "skipped"]
    assert told[-1] == "skipped: train.jsonl: 10 of 70 rows are faulty (14.3 %); data.skip_faulty allows 15 %"
    # Each row is told of, those with the same fault together.
    places = {place for problem in data.warnings for place in problem.places}
    assert places >= {f"train.jsonl:{line}" for line in range(2, 12)}
    assert sum("skipped: train.jsonl:" in line for line in told) >= 8


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "parquet"])
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"rows.{kind}", labelled(40)
    rows[5]["label"] = ""
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            writer.writerows([["text", "label"], *(row.values() for row in rows), ["three", "fields", "here"]])
    elif kind == "json":
        path.write_text(json.dumps([*rows, 7]))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, {"text": None, "label": "no"}]), path)
    data = load_classification(DataSettings(path=str(path), skip_faulty=0.05))
    assert sum(map(len, data.splits.values())) == 39
    assert f"rows.{kind}: 2 of 41 rows are faulty (4.9 %)" in data.warnings[-1].told
    assert "2 of 41 rows are faulty (4.9 %)" in complaint(str(path), skip_faulty=0.04)


def test_pairs_and_texts_to_write(tmp_path: Path) -> None:
    pairs = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": i % 3} for i in range(20)]
    pairs[3]["hypothesis"] = ""
    data = load_classification(DataSettings(path=write_jsonl(tmp_path / "pairs.jsonl", pairs), skip_faulty=0.1))
    assert sum(map(len, data.splits.values())) == 19
    asked = [{"prompt": f"a {i}", "completion": f"b {i}"} for i in range(20)]
    del asked[7]["completion"]
    written = load_generation(DataSettings(path=write_jsonl(tmp_path / "asked.jsonl", asked), skip_faulty=0.1))
    assert sum(map(len, written.splits.values())) == 19
    assert "asked.jsonl: 1 of 20 rows is faulty (5.0 %)" in written.warnings[-1].told


def test_more_than_may_be_is_an_error_that_names_each_kind(tmp_path: Path) -> None:
    path = lines(tmp_path / "train.jsonl", labelled(60), FAULTY)
    said = complaint(path, skip_faulty=0.1).splitlines()
    assert said[0] == (
        "train.jsonl: 10 of 70 rows are faulty (14.3 %), and data.skip_faulty allows 10 %: 7; mend them, or allow more"
    )
    assert "train.jsonl:2: the row is not JSON: Unterminated string starting at at column 10" in said


def test_every_split_is_weighed_by_itself(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(300))
    lines(tmp_path / "valid.jsonl", labelled(8), FAULTY[:2])
    assert "valid.jsonl: 2 of 10 rows are faulty (20.0 %), and" in complaint(str(tmp_path), skip_faulty=0.1)
    write_text(tmp_path / "valid.jsonl", "\n".join(FAULTY[:2]))
    assert "valid.jsonl: 2 of 2 rows are faulty (100 %)" in complaint(str(tmp_path), skip_faulty=0.1)


def test_a_file_with_faulty_rows_alone_is_an_error(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.jsonl", "\n".join(FAULTY[:2]))
    assert "a.jsonl: 2 of 2 rows are faulty (100 %)" in complaint(path, skip_faulty=0.9)


@pytest.mark.parametrize(("good", "share"), [(40, "0.05"), (400, "0.01"), (10, None)])
def test_an_error_says_how_to_leave_out_a_few(good: int, share: str | None, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", labelled(good), FAULTY[:1])
    hint = f"--data.skip-faulty {share} goes on without them"
    assert (hint in complaint(path)) == (share is not None)
    assert ("--data.skip-faulty" in complaint(path)) == (share is not None)
    if share is not None:
        load_classification(DataSettings(path=path, skip_faulty=float(share)))
    report = describe(DataSettings(path=path))
    assert any("--data.skip-faulty" in problem.message for problem in report.problems) == (share is not None)


def test_what_is_wrong_with_a_whole_file_stays_an_error(tmp_path: Path) -> None:
    quoted = write_text(tmp_path / "a.csv", "text,label\n" + 'x,"a"\n' * 50 + 'y,"never closed\n')
    assert "cannot be split into fields" in complaint(quoted, skip_faulty=0.5)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a", "label": "x"}\n' * 50 + b'{"text": "\xfc", "label": "x"}\n')
    assert "not UTF-8" in complaint(str(tmp_path / "b.jsonl"), skip_faulty=0.5)
    scores = [{"text": f"t {i}", "label": f"{i / 100:.2f}"} for i in range(99)]
    path = lines(tmp_path / "c.jsonl", scores, ['{"text": "no label", "label": ""}'])
    assert "different real numbers" in complaint(path, skip_faulty=0.5)


def test_the_report_on_the_data_counts_as_training_does(tmp_path: Path) -> None:
    path = lines(tmp_path / "train.jsonl", labelled(60), FAULTY)
    report = describe(DataSettings(path=path, skip_faulty=0.15))
    data = load_classification(DataSettings(path=path, skip_faulty=0.15))
    assert {split: found.rows for split, found in report.splits.items()} == {
        split: len(rows) for split, rows in data.splits.items()
    }
    skipped = [problem for problem in report.problems if problem.severity == "skipped"]
    assert skipped == [problem for problem in data.warnings if problem.severity == "skipped"]
    assert not any(problem.severity == "error" for problem in report.problems)


def test_rows_that_are_scored_are_left_out_in_the_same_way(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", labelled(30), ['{"text": "a", "label": "maybe"}'])
    opened = open_data(DataSettings(path=path, skip_faulty=0.1))
    data = classification_in(opened, Learned(("no", "yes"), whole=True))
    assert len(data.splits["train"]) == 30
    assert [problem.places for problem in data.warnings] == [("a.jsonl:2",), ("a.jsonl",)]


def test_conversations_that_the_template_refuses(tmp_path: Path) -> None:
    talks = [chat(HELLO, FINE, place=f"a.jsonl:{i}") for i in range(20)]
    refused = chat(SYSTEM, HELLO, FINE, place="a.jsonl:21")
    assert len(tokenize_generation(byte_level(CHATML), [*talks, refused], 512).rows) == 21
    with pytest.raises(DataError, match="refuses the conversation"):
        tokenize_generation(byte_level(GEMMA), [*talks, refused], 512)
    tokens = tokenize_generation(byte_level(GEMMA), [*talks, refused], 512, "train", 0.05)
    assert len(tokens.rows) == 20
    assert [problem.place for problem in tokens.problems] == ["a.jsonl:21", "train"]
    with pytest.raises(
        DataError, match=r"train: 1 of 21 rows is faulty \(4.8 %\), and data.skip_faulty allows 4 %: 0;"
    ):
        tokenize_generation(byte_level(GEMMA), [*talks, refused], 512, "train", 0.04)


def test_rows_that_are_to_be_answered_keep_their_place_with_an_empty_text(tmp_path: Path) -> None:
    path, columns = lines(tmp_path / "a.jsonl", labelled(30), FAULTY), {"text": "text"}
    found = read_inputs(path, Reading(skip_faulty=0.3))
    texts = [text for text, _ in found.texts(columns)]
    assert [row.place for row in found.rows] == [f"a.jsonl:{number}" for number in range(1, 41)]
    # Broken, no object, empty, null, a number, half of a character, another format; the label is not looked at.
    assert [number for number, text in enumerate(texts, 1) if not text] == [2, 3, 5, 6, 9, 10, 11]
    assert found.skipped[-1] == "skipped: a.jsonl: 5 of 40 rows are faulty (12.5 %); data.skip_faulty allows 30 %"
    assert "skipped: a.jsonl:9: text is 12, not a text" in found.skipped
    with pytest.raises(DataError, match=r"5 of 40 rows are faulty \(12.5 %\), and data.skip_faulty allows 10 %: 4;"):
        read_inputs(path, Reading(skip_faulty=0.1)).texts(columns)
    few = lines(tmp_path / "few.jsonl", labelled(30), FAULTY[:1])
    with pytest.raises(DataError, match=r"few.jsonl: 1 of 31 rows is faulty .* --data.skip-faulty 0.05 goes on"):
        read_inputs(few)
    alone = write_text(tmp_path / "alone.jsonl", FAULTY[0])
    with pytest.raises(DataError, match=r"alone.jsonl: 1 of 1 row is faulty"):
        read_inputs(alone, Reading(skip_faulty=0.9))


def test_a_row_of_a_table_with_too_many_fields_keeps_its_place(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "text,id\na,1\nb,2,3\nc,4\n")
    found = read_inputs(path, Reading(skip_faulty=0.5))
    assert [text for text, _ in found.texts({"text": "text"})] == ["a", "", "c"]
    assert [row.place for row in found.rows] == ["a.csv:2", "a.csv:3", "a.csv:4"]
