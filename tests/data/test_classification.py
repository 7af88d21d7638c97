import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from inlay.data.classification import Example, load_classification
from inlay.data.labels import read_known_labels
from inlay.data.problems import Problems
from inlay.data.rows import Row
from inlay.data.settings import DataSettings
from inlay.errors import DataError

from .files import labelled, write_jsonl, write_text


def load(path: Path | str, **settings):
    return load_classification(DataSettings(path=str(path), **settings))


def complaint(path: Path | str, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    return str(caught.value)


def folder(tmp_path: Path, **splits: list[dict]) -> Path:
    for split, rows in splits.items():
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    return tmp_path


def with_row(row: dict, count: int = 9) -> list[dict]:
    """Good rows with `row` as the third."""
    good = labelled(count)
    return [*good[:2], row, *good[2:]]


def test_a_folder_gives_typed_examples_and_says_where_they_are_from(tmp_path):
    rows = [row | {"id": i} for i, row in enumerate(labelled(9))]
    data = load(folder(tmp_path, train=rows, dev=labelled(2), test=labelled(3)))
    assert data.splits["train"][1] == Example("text number 1", None, 1, "train.jsonl:2")
    assert {split: len(examples) for split, examples in data.splits.items()} == {"train": 9, "valid": 2, "test": 3}
    assert data.labels == ("no", "yes")
    assert data.source == str(tmp_path)
    assert data.format == "labelled-text"
    assert data.columns == {"text": "text", "label": "label"}
    assert data.ignored_columns == ("id",)
    assert data.valid_from == "dev.jsonl"


def test_a_pair_has_both_texts(tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": i % 3} for i in range(9)]
    data = load(folder(tmp_path, train=rows, valid=rows))
    assert data.splits["train"][4] == Example("p4", "h4", 1, "train.jsonl:5")
    assert data.columns == {"text": "premise", "text_pair": "hypothesis", "label": "label"}


def test_integer_labels_are_in_numerical_order_and_texts_in_alphabetical_order(tmp_path):
    assert load(folder(tmp_path, train=labelled(9, (10, 9, -1)), valid=labelled(1, (9,)))).labels == ("-1", "9", "10")
    data = load(folder(tmp_path, train=labelled(9, ("b", "a", "10x", "9x")), valid=labelled(1, ("b",))))
    assert data.labels == ("10x", "9x", "a", "b")
    assert data.splits["valid"][0].label == 3


def test_digits_of_a_csv_file_are_integers(tmp_path):
    lines = "".join(f"text {i},{label}\n" for i, label in enumerate(["10", "9", "2.0"] * 4))
    assert load(write_text(tmp_path / "a.csv", "text,label\n" + lines)).labels == ("2", "9", "10")
    lines = lines.replace("2.0", "007")
    assert load(write_text(tmp_path / "a.csv", "text,label\n" + lines)).labels == ("007", "10", "9")


def test_booleans_keep_their_names_in_every_kind_of_file(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", labelled(12, (True, False)))
    assert load(path).labels == ("false", "true")
    assert load(path).splits["train"][0].label == 1
    assert load(path).warnings == ()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(labelled(12, (True, False))), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").labels == ("false", "true")
    mixed = write_jsonl(tmp_path / "b.jsonl", labelled(12, (True, 0)))
    assert complaint(mixed).startswith("b.jsonl:2: the label 0 is an integer, the first row's is a boolean; use one")


def test_whole_real_numbers_are_classes_and_that_is_said(tmp_path):
    table = pyarrow.Table.from_pylist(labelled(12, (0.0, 1.0)))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.labels == ("0", "1")
    assert [str(problem) for problem in data.warnings] == [
        'a.parquet row 1: label holds real numbers, such as 0.0; they are read as the 2 classes "0", "1"'
    ]


def test_a_few_real_numbers_as_texts_are_classes_and_that_is_said(tmp_path):
    lines = "".join(f"text {i},{i % 3 + 0.5}\n" for i in range(30))
    data = load(write_text(tmp_path / "a.csv", "text,label\n" + lines))
    assert data.labels == ("0.5", "1.5", "2.5")
    assert [str(problem) for problem in data.warnings] == [
        'a.csv:2: label holds real numbers, such as "0.5"; they are read as the 3 classes "0.5", "1.5", "2.5", of '
        "which none is nearer to one than to another (no regression)"
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_many_different_real_numbers_are_no_classes(tmp_path, name):
    if name == "a.csv":
        path = write_text(tmp_path / name, "text,label\n" + "".join(f"text {i},{i / 2}\n" for i in range(60)))
    else:
        path = write_jsonl(tmp_path / name, labelled(60, tuple(float(i) for i in range(60))))
    found = complaint(path)
    assert "label holds 60 different real numbers in 60 rows, such as" in found
    assert "a label is one of a few classes, and no number is learned as one (no regression): group them" in found


def test_many_different_integers_are_read_as_classes_and_that_is_said(tmp_path):
    rows = labelled(60, tuple(range(30)))
    data = load(folder(tmp_path, train=rows, valid=rows[:5]))
    assert len(data.labels) == 30
    assert [str(problem) for problem in data.warnings] == [
        "train.jsonl:1: label holds 30 different integers in 65 rows; each is read as a class of its own"
    ]
    assert load(folder(tmp_path, train=rows * 3, valid=rows[:5])).warnings == ()


def test_a_label_of_more_digits_than_python_reads_is_a_text(tmp_path):
    lines = "".join(f"text {i},{'9' * 5000 if i % 2 else 1}\n" for i in range(30))
    assert load(write_text(tmp_path / "a.csv", "text,label\n" + lines)).labels == ("1", "9" * 5000)
    rows = [*labelled(9), {"text": "x", "label": 0}]
    path = write_text(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)[:-3] + "9" * 5000 + "}\n")
    assert complaint(path) == (
        "a.jsonl:10: the row has a number of more than 4,300 digits, the most that are read; write it as a text"
    )


def test_another_column_that_names_the_labels_is_ignored(tmp_path):
    rows = [row | {"label_name": "abc"[row["label"]]} for row in labelled(12, (0, 1, 2))]
    data = load(write_jsonl(tmp_path / "a.jsonl", rows))
    assert data.labels == ("0", "1", "2")
    assert data.ignored_columns == ("label_name",)


REAL = (
    "a label is one integer or one text; real numbers are no classes: group them, or write them as texts if each is a "
    "class"
)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, 'no column "label"; the columns are text'),
        ({"text": "x", "lable": "no"}, 'no column "label"; did you mean lable? The columns are text, lable'),
        ({"label": "no"}, 'no column "text"; the columns are label'),
        ({"text": " \n", "label": "no"}, "text is empty; give the row a text or remove it"),
        ({"text": None, "label": "no"}, "text is empty; give the row a text or remove it"),
        ({"text": 5, "label": "no"}, "text is 5, not a text"),
        ({"text": ["x"], "label": "no"}, "text is a list, not a text"),
        ({"text": "x", "label": None}, "label is empty; every row needs a label"),
        ({"text": "x", "label": " "}, "label is empty; every row needs a label"),
        ({"text": "x", "label": float("nan")}, "label is empty; every row needs a label"),
        ({"text": "x", "label": 0.5}, f"label is 0.5; {REAL}"),
        ({"text": "x", "label": float("inf")}, f"label is Infinity; {REAL}"),
        ({"text": "x", "label": ["no", "yes"]}, "label is a list; a label is one integer or one text"),
        ({"text": "x", "label": 1}, "the label 1 is an integer, the first row's is a text; use one kind for all"),
        (
            {"messages": []},
            "the row is in the format messages, the first row in labelled-text; use one format for all",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_with_its_line_and_how_many_are_like_it(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", with_row(row))
    assert complaint(path) == f"a.jsonl:3: {message}"
    path = write_jsonl(tmp_path / "a.jsonl", [*with_row(row), row])
    assert complaint(path) == f"a.jsonl:3: {message} (2 rows have this: lines 3 and 11)"


def test_an_empty_second_text_is_reported(tmp_path):
    rows = [{"text_a": "a", "text_b": "b" if i else "", "label": i % 2} for i in range(9)]
    assert complaint(write_jsonl(tmp_path / "a.jsonl", rows)).startswith("a.jsonl:1: text_b is empty")


def test_an_integer_among_text_labels_is_found_in_another_split_too(tmp_path):
    message = complaint(folder(tmp_path, train=labelled(9, (0, 1)), valid=labelled(9, (0, 1)), test=labelled(2)))
    assert message == (
        'test.jsonl:1: the label "no" is a text, the first row\'s is an integer; use one kind for all '
        "(2 rows have this: lines 1 and 2)"
    )


def test_text_and_integer_spellings_of_one_label_are_not_mixed_up_in_one_file(tmp_path):
    assert 'a.jsonl:2: the label "1" is a text' in complaint(write_jsonl(tmp_path / "a.jsonl", labelled(9, (0, "1"))))


def test_all_kinds_of_problems_are_told_at_once(tmp_path):
    rows = [*labelled(9), {"text": "", "label": "no"}, {"text": "x", "label": ""}, {"text": "y"}]
    assert len(complaint(write_jsonl(tmp_path / "a.jsonl", rows)).splitlines()) == 3


def test_one_class_alone_is_an_error(tmp_path):
    message = complaint(folder(tmp_path, train=labelled(9, ("spam",)), valid=labelled(2, ("spam",))))
    assert message == 'train.jsonl: every label is "spam"; two are needed'


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_label_that_train_lacks_is_an_error(tmp_path, split):
    splits = {"valid": labelled(4), split: labelled(5, ("yes", "maybe"))}
    assert complaint(folder(tmp_path, train=labelled(9), **splits)) == (
        f'{split}.jsonl:2: the label "maybe" is in no row of train.jsonl, so it cannot be learned '
        "(2 rows have this: lines 2 and 4)"
    )


def test_the_label_of_a_row_with_another_problem_is_not_called_missing(tmp_path):
    rows = [*labelled(9), {"text": "", "label": "maybe"}]
    message = complaint(folder(tmp_path, train=rows, valid=labelled(3, ("maybe",))))
    assert message == "train.jsonl:10: text is empty; give the row a text or remove it"


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"conversations": []}, "conversations"),
        ({"prompt": "x", "completion": "y"}, "prompt-completion"),
        ({"instruction": "x", "output": "y"}, "instruction"),
        ({"text": "x"}, "text"),
    ],
)
def test_data_for_generation_is_an_error_that_names_its_format(tmp_path, row, format):
    message = complaint(write_jsonl(tmp_path / "a.jsonl", [row] * 9))
    assert f"the rows are in the format {format} " in message
    assert "classification needs a text and a label: name their columns with data.text and data.label" in message


def test_named_columns_are_used(tmp_path):
    rows = [{"body": f"b{i}", "title": f"t{i}", "stars": i % 5, "label": "x"} for i in range(30)]
    data = load(write_jsonl(tmp_path / "a.jsonl", rows), text="title", text_pair="body", label="stars")
    assert data.columns == {"text": "title", "text_pair": "body", "label": "stars"}
    assert data.labels == ("0", "1", "2", "3", "4")
    assert data.ignored_columns == ("label",)
    assert 'no column "titel"; did you mean title?' in complaint(tmp_path / "a.jsonl", text="titel")


def test_without_a_valid_file_rows_of_train_are_held_out(tmp_path):
    data = load(folder(tmp_path, train=labelled(400), test=labelled(3)))
    assert {split: len(examples) for split, examples in data.splits.items()} == {"train": 380, "valid": 20, "test": 3}
    assert data.valid_from == "5 % of train: 20 rows, the same whatever the seed"
    both = [example.place for split in ("train", "valid") for example in data.splits[split]]
    assert sorted(both) == sorted(f"train.jsonl:{i + 1}" for i in range(400))
    assert load(tmp_path, valid_fraction=0.25).valid_from.startswith("25 % of train")


def test_too_few_rows_to_hold_any_out_are_an_error(tmp_path):
    assert complaint(write_jsonl(tmp_path / "a.jsonl", labelled(7))) == (
        "a.jsonl: 7 rows are too few to hold some out for evaluation; give at least 8, or a valid file as well"
    )
    assert len(load(write_jsonl(tmp_path / "a.jsonl", labelled(8))).splits["valid"]) == 2


def test_rows_of_which_none_can_be_held_out_are_an_error(tmp_path):
    each_its_own = labelled(9, tuple(range(9)))
    assert complaint(write_jsonl(tmp_path / "a.jsonl", each_its_own)).startswith(
        "a.jsonl: none of the 9 rows can be held out for evaluation"
    )


def known(values: list, *names: str, unnamed: bool = False) -> list[int | None]:
    problems = Problems()
    found = read_known_labels([Row({"label": v}, "a:1") for v in values], "label", names, unnamed, problems)
    assert (None in found) == bool(problems.found())
    return found


def test_labels_to_score_are_found_among_those_that_were_learned():
    assert known(["b", "a", "a"], "a", "b") == [1, 0, 0]
    assert known(["1", 1, 1.0, "1.0"], "0", "1") == [1, 1, 1, 1]
    assert known(["1.0", "2x"], "1.0", "2x") == [0, 1]
    assert known([True, False], "false", "true") == [1, 0]
    assert known([True, False], "0", "1") == [1, 0]  # as an earlier version has learned booleans
    assert known([1, "0"], "LABEL_0", "LABEL_1", unnamed=True) == [1, 0]
    assert known(["LABEL_1"], "LABEL_0", "LABEL_1", unnamed=True) == [1]
    assert known([1, 2, "c", 0.5, None], "a", "b") == [None] * 5
