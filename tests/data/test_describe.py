import json
from dataclasses import asdict
from pathlib import Path

import pytest

from inlay.data.describe import DataReport, Duplicates, FileReport, Lengths, describe
from inlay.data.settings import DataSettings
from inlay.errors import DataError

from .files import labelled, write_jsonl, write_text


def report(path: Path | str, **settings) -> DataReport:
    found = describe(DataSettings(path=str(path), **settings))
    json.dumps(asdict(found))
    return found


def complaints(found: DataReport, severity: str) -> list[str]:
    return [str(problem) for problem in found.problems if problem.severity == severity]


def test_good_data_is_described(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [row | {"id": 1} for row in labelled(12, ("a", "b", "b"))])
    write_text(tmp_path / "dev.csv", "text,label\none two three,b\nfour words are here,a\n")
    write_text(tmp_path / "README.md", "")
    found = report(tmp_path)
    assert found.path == str(tmp_path)
    assert found.format == "labelled-text"
    assert found.files == (
        FileReport(name="train.jsonl", split="train", rows=12),
        FileReport(name="dev.csv", split="valid", rows=2),
    )
    assert found.ignored_files == ("README.md",)
    assert found.columns == {"text": "text", "label": "label"}
    assert found.ignored_columns == ("id",)
    assert found.labels == ("a", "b")
    assert found.splits["train"].labels == {"a": 4, "b": 8}
    assert found.splits["valid"].rows == 2
    assert found.valid_from == "dev.csv"
    assert found.duplicates == ()
    assert [(problem.severity, str(problem)) for problem in found.problems] == [
        (
            "note",
            "dev.csv: valid is small: an accuracy of 50 % on its 2 rows means 9.5 to 90.5 % (95 %), one of 100 % "
            '34.2 to 100 %; a recall of 100 % on the 1 row of "a" means 20.7 to 100 %',
        )
    ]


def test_lengths_are_in_characters_and_words_of_all_texts_of_a_row(tmp_path):
    rows = [{"text_a": "x" * i, "text_b": "y " * i, "label": i % 2} for i in range(1, 101)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "valid.jsonl", rows[:1])
    found = report(tmp_path).splits
    assert found["train"].characters == Lengths(min=3, median=150, p95=285, max=300)
    assert found["train"].words == Lengths(min=2, median=51, p95=96, max=101)
    assert found["valid"].characters == Lengths(min=3, median=3, p95=3, max=3)


def test_rows_held_out_of_train_are_described_as_valid(tmp_path):
    found = report(write_jsonl(tmp_path / "a.jsonl", labelled(400)))
    assert (found.splits["train"].rows, found.splits["valid"].rows) == (380, 20)
    assert found.files == (FileReport(name="a.jsonl", split="train", rows=400),)
    assert found.valid_from == "5 % of train: 20 rows, the same whatever the seed"


def test_problems_of_rows_are_listed_and_do_not_raise(tmp_path):
    good = "".join(json.dumps(row) + "\n" for row in labelled(20))
    bad = (
        '{"text": "", "label": "no"}\nnope\n{"text": "x", "label": "no"}\n{"text": "y"}\n{"text": "", "label": "no"}\n'
    )
    found = report(write_text(tmp_path / "a.jsonl", good + bad))
    assert complaints(found, "error") == [
        "a.jsonl:22: the row is not JSON: Expecting value at column 1",
        'a.jsonl:24: no column "label"; the columns are text',
        "a.jsonl:21: text is empty; give the row a text or remove it (2 rows have this: lines 21 and 25)",
    ]
    assert found.files[0].rows == 24
    assert found.splits["train"].rows + found.splits["valid"].rows == 21


def test_a_train_file_of_bad_rows_is_not_called_too_short_as_well(tmp_path):
    found = report(write_jsonl(tmp_path / "a.jsonl", [{"text": "", "label": i % 2} for i in range(9)]))
    assert complaints(found, "error") == [
        "a.jsonl:1: text is empty; give the row a text or remove it (9 rows have this: lines 1, 2, 3, 4, 5 and 4 more)"
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a.csv: has no rows"),
        (b"text,label\n\xff,1\n", "a.csv:2: byte 11 of the file is 0xff"),
        (b"review,stars\ngood,5\n", "a.csv:1: the columns review, stars fit none of the formats"),
    ],
    ids=["empty", "encoding", "format"],
)
def test_a_file_of_which_nothing_can_be_used_is_described_as_unknown(tmp_path, content, problem):
    (tmp_path / "a.csv").write_bytes(content)
    found = report(tmp_path / "a.csv")
    assert found.format == "unknown"
    assert complaints(found, "error")[0].startswith(problem)
    assert len(found.problems) == 1


def test_a_named_column_that_is_not_there_and_too_few_rows_are_problems_too(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", labelled(4))
    assert complaints(report(path, label="lable"), "error") == [
        'a.jsonl:1: data.label: no column "lable"; did you mean label? The columns are text, label'
    ]
    found = report(path)
    assert "4 rows are too few" in complaints(found, "error")[0]
    assert found.splits["train"].rows == 4
    assert found.valid_from is None


def test_data_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        report(tmp_path / "a.jsonl")


def test_exact_duplicates_are_counted_within_and_across_splits(tmp_path):
    train = labelled(10)
    write_jsonl(tmp_path / "train.jsonl", [*train, train[0], train[2], train[0]])
    write_jsonl(tmp_path / "valid.jsonl", [train[3], {"text": "another", "label": "no"}])
    write_jsonl(tmp_path / "test.jsonl", [train[4], train[3]])
    found = report(tmp_path)
    assert found.duplicates == (
        Duplicates(
            kind="exact",
            splits=("train",),
            count=3,
            places=(
                ("train.jsonl:1", "train.jsonl:11"),
                ("train.jsonl:3", "train.jsonl:12"),
                ("train.jsonl:1", "train.jsonl:13"),
            ),
        ),
        Duplicates(kind="exact", splits=("train", "valid"), count=1, places=(("train.jsonl:4", "valid.jsonl:1"),)),
        Duplicates(
            kind="exact",
            splits=("train", "test"),
            count=2,
            places=(("train.jsonl:5", "test.jsonl:1"), ("train.jsonl:4", "test.jsonl:2")),
        ),
        Duplicates(kind="exact", splits=("valid", "test"), count=1, places=(("valid.jsonl:1", "test.jsonl:2"),)),
    )
    assert complaints(found, "error") == []
    assert complaints(found, "warning")[0] == (
        "valid.jsonl:1: the same text as train.jsonl:4; rows repeated in all: 1 of valid in train, 2 of test in train, "
        "1 of test in valid, 3 within train"
    )


def test_the_worst_comes_first_and_repeated_rows_are_one_warning(tmp_path):
    rows = labelled(20)
    write_jsonl(tmp_path / "train.jsonl", [*rows, rows[0], rows[0] | {"label": "other"}, rows[1] | {"label": "YES"}])
    write_jsonl(tmp_path / "valid.jsonl", rows[:4])
    said = complaints(report(tmp_path), "warning")
    assert "but" in said[0]
    assert "for the same text" in said[0]
    assert "the same text as" in said[1]
    assert sum("the same text as" in each for each in said) == 1
    assert any("differ only in case" in each for each in said[2:])


def test_texts_that_differ_in_white_space_alone_are_told_apart_from_exact_ones(tmp_path):
    rows = labelled(10)
    write_jsonl(tmp_path / "train.jsonl", [*rows, {"text": " text  number 3", "label": "yes"}])
    write_jsonl(tmp_path / "valid.jsonl", [{"text": "text number 4\n", "label": "no"}, {"text": "x", "label": "yes"}])
    found = report(tmp_path)
    assert [(d.kind, d.splits, d.count) for d in found.duplicates] == [
        ("white space", ("train",), 1),
        ("white space", ("train", "valid"), 1),
    ]
    assert complaints(found, "warning")[0] == (
        "valid.jsonl:1: the same text but for white space as train.jsonl:5; rows repeated in all: 1 of valid in train, "
        "1 within train"
    )


def test_only_the_first_places_of_many_duplicates_are_listed(tmp_path):
    found = report(write_jsonl(tmp_path / "a.jsonl", [*labelled(30), *([{"text": "x", "label": "no"}] * 11)]))
    (duplicates,) = found.duplicates
    assert (duplicates.count, len(duplicates.places)) == (10, 5)


def test_pairs_with_one_text_in_common_are_no_duplicates(tmp_path):
    rows = [{"question": f"q{i % 3}", "passage": f"p{i}", "label": i % 2} for i in range(20)]
    assert report(write_jsonl(tmp_path / "a.jsonl", rows)).duplicates == ()


def test_one_text_with_two_labels_is_a_warning(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [*labelled(8), {"text": "text number 0", "label": "yes"}])
    write_jsonl(tmp_path / "valid.jsonl", [{"text": "x", "label": "no"}, {"text": "y", "label": "yes"}])
    assert 'train.jsonl:9: the label is "yes", but "no" for the same text at train.jsonl:1' in complaints(
        report(tmp_path), "warning"
    )


def test_labels_that_a_split_lacks_are_a_warning(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(9, ("a", "b", "c")))
    write_jsonl(tmp_path / "valid.jsonl", [{"text": "x", "label": "b"}])
    found = report(tmp_path)
    assert found.splits["train"].missing_labels == ()
    assert found.splits["valid"].missing_labels == ("a", "c")
    assert found.splits["valid"].labels == {"b": 1}
    assert complaints(found, "warning")[1:] == ['valid.jsonl: no row of the valid split has the label "a", "c"']


def test_labels_that_differ_in_case_alone_are_a_warning(tmp_path):
    found = report(write_jsonl(tmp_path / "a.jsonl", labelled(40, ("spam", "Spam ", "ham"))))
    assert complaints(found, "warning") == [
        'a.jsonl: the labels "Spam " and "spam" differ only in case and white space'
    ]


ASKED, CALLED = (
    {"role": "user", "content": "abc"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "a"}]},
)


@pytest.mark.parametrize(
    ("format", "row", "characters"),
    [
        ("messages", {"messages": [ASKED, {"role": "assistant", "content": "de"}]}, 5),
        ("messages", {"messages": [ASKED, CALLED]}, 3 + len('[{"name": "a"}]')),
        ("conversations", {"conversations": [{"from": "human", "value": "abc"}, {"from": "gpt", "value": "d"}]}, 4),
        ("prompt-completion", {"prompt": "abc", "completion": "de"}, 5),
        ("instruction", {"instruction": "abc", "input": "", "output": "d"}, 4),
        ("instruction", {"instruction": "abc", "output": "d"}, 4),
        ("text", {"text": "abc"}, 3),
    ],
)
def test_data_for_generation_is_described(tmp_path, format, row, characters):
    write_jsonl(tmp_path / "train.jsonl", [row | {"id": 1}])
    write_jsonl(tmp_path / "valid.jsonl", [{k: _changed(v) for k, v in row.items()}])
    found = report(tmp_path)
    assert found.format == format
    assert found.splits["train"].rows == 1
    lengths = found.splits["train"].characters
    assert lengths is not None
    assert lengths.max == characters
    assert found.ignored_columns == ("id",)
    assert list(found.splits) == ["train", "valid"]
    assert found.valid_from == "valid.jsonl"
    assert found.problems == ()


def _changed(value):
    """Another row of the same format."""
    if isinstance(value, list):
        return [{k: v + "!" if k in ("content", "value") and v else v for k, v in turn.items()} for turn in value]
    return value + "!" if value else value


def test_rows_for_generation_are_held_out_too(tmp_path):
    rows = [{"prompt": f"p{i // 2}", "completion": f"c{i}"} for i in range(60)]
    found = report(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (found.splits["train"].rows, found.splits["valid"].rows) == (44, 16)
    assert found.duplicates == ()


def test_a_prompt_that_two_splits_share_is_told_apart_from_a_repeated_row(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(9)]
    write_jsonl(tmp_path / "train.jsonl", [*rows, rows[2] | {"completion": "another"}])
    write_jsonl(tmp_path / "valid.jsonl", [rows[3], {"prompt": "p4 ", "completion": "another"}])
    found = report(tmp_path)
    assert [(d.kind, d.splits, d.places) for d in found.duplicates] == [
        ("exact", ("train", "valid"), (("train.jsonl:4", "valid.jsonl:1"),)),
        ("prompt", ("train", "valid"), (("train.jsonl:5", "valid.jsonl:2"),)),
    ]
    assert complaints(found, "warning") == [
        "valid.jsonl:1: the same text as train.jsonl:4",
        "valid.jsonl:2: another answer to the same prompt as train.jsonl:5",
    ]


GOOD_TURN = {"role": "user", "content": "hi"}
GOOD_TURNS = [GOOD_TURN, {"role": "assistant", "content": "ho"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [GOOD_TURN, {"role": "bot", "content": "x"}]},
            'messages[1].role is "bot"; allowed: system, user, assistant, tool',
        ),
        ({"messages": []}, "messages is a list; it must be a list of objects, and not empty"),
        ({"messages": "hi"}, 'messages is "hi"; it must be a list of objects, and not empty'),
        ({"messages": [{"content": "x"}]}, 'messages[0] has no "role"; each must be an object with one'),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content is null, not a text"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role is a list; allowed:"),
    ],
)
def test_a_row_for_generation_that_cannot_be_used_is_listed(tmp_path, row, message):
    found = report(write_jsonl(tmp_path / "a.jsonl", [{"messages": GOOD_TURNS}, row]))
    assert complaints(found, "error")[0].startswith(f"a.jsonl:2: {message}")
    assert found.splits["train"].rows == 1


def test_an_empty_completion_is_listed(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}, {"prompt": 1, "completion": "b"}]
    found = report(write_jsonl(tmp_path / "a.jsonl", rows))
    assert complaints(found, "error")[:2] == [
        "a.jsonl:2: completion is empty; give the row a text or remove it",
        "a.jsonl:3: prompt is 1, not a text",
    ]


def test_splits_that_are_too_small_to_judge_are_noted(tmp_path):
    rare = [{"text": f"rare {i}", "label": "rare"} for i in range(8)]
    write_jsonl(tmp_path / "train.jsonl", [*labelled(40), {"text": "rare", "label": "rare"}])
    write_jsonl(tmp_path / "valid.jsonl", [*labelled(52), *rare])
    write_jsonl(tmp_path / "test.jsonl", [*labelled(120), *rare])
    assert complaints(report(tmp_path), "note") == [
        "valid.jsonl: valid is small: an accuracy of 50 % on its 60 rows means 37.7 to 62.3 % (95 %), one of 100 % "
        '94.0 to 100 %; a recall of 100 % on the 8 rows of "rare" means 67.6 to 100 %',
        'test.jsonl: test has 8 rows of "rare": a recall of 100 % on them means 67.6 to 100 % (95 %)',
    ]
    write_jsonl(tmp_path / "valid.jsonl", labelled(120))
    write_jsonl(tmp_path / "test.jsonl", labelled(100))
    assert complaints(report(tmp_path), "note") == []


def test_labels_of_few_rows_are_counted_and_quoted(tmp_path):
    labels = ["joy"] * 20 + ["Home "] * 12 + ["joy, Home "] * 3 + ["love"] * 4
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    found = complaints(report(write_jsonl(tmp_path / "a.jsonl", rows)), "warning")
    assert found[0] == (
        'a.jsonl: 2 of 4 labels have fewer than 5 rows, too few to learn: "joy, Home ", "love"; a row has one label, '
        'so that "joy, Home " is a label of its own and not several'
    )
    rows = [row | {"label": row["label"].replace(", ", " and ")} for row in rows]
    found = complaints(report(write_jsonl(tmp_path / "b.jsonl", rows)), "warning")
    assert found[0].endswith('too few to learn: "joy and Home ", "love"')
