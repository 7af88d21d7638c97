"""Labels that are written alike are told of by `data` and by `train`, which both look here."""

from pathlib import Path

import pytest

import inlay
from inlay.data.alike_labels import alike_labels, meant_label
from inlay.data.labels import read_known_labels
from inlay.data.problems import Problems
from inlay.data.rows import Row

from ..tiny_models import reviews, write_rows


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("Billing", "BILLING", "Login"), 'the labels "Billing" and "BILLING" differ only in case'),
        (("Login", "Login "), 'the labels "Login" and "Login " differ only in white space'),
        (("a b", "A  b"), 'the labels "a b" and "A  b" differ only in case and white space'),
    ],
)
def test_it_says_in_what_they_differ(labels: tuple[str, ...], said: str) -> None:
    assert list(alike_labels(labels)) == [said]


def test_labels_that_differ_are_left_alone() -> None:
    assert not list(alike_labels(("positive", "negative", "not positive")))


def test_a_run_says_so_on_its_screen(tiny_bert: str, tmp_path: Path) -> None:
    rows = [row | {"label": "Positive"} if i % 5 == 0 else row for i, row in enumerate(reviews(60))]
    write_rows(tmp_path / "rows.jsonl", rows)
    run = inlay.train(
        tiny_bert, tmp_path / "rows.jsonl", out=tmp_path / "run", epochs=1, forgetting=False, progress=False
    )
    log = (run.folder / "log.txt").read_text()
    assert 'note    the labels "Positive" and "positive" differ only in case, and each is learned as a label of' in log


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("SMALL TALK", "small_talk"),
        ("small  talk", "small_talk"),
        ("Home", "Home "),
        ("yes", None),  # of two it may be either
        ("??", None),
        ("work", None),
    ],
)
def test_which_known_label_is_meant(label: str, meant: str | None) -> None:
    assert meant_label(label, ["small_talk", "Home ", "Yes", "YES", "!"]) == meant


def test_unknown_labels_are_counted_each_and_named() -> None:
    labels = ["SMALL TALK"] * 3 + ["x"] * 5 + ["yes"] * 2 + ["a", "b", "c", "d"] + ["small_talk"] * 4
    rows = [Row({"label": label}, f"a.csv:{line}") for line, label in enumerate(labels, 2)]
    problems = Problems()
    found = read_known_labels(rows, "label", ["small_talk", "no"], False, problems)
    assert found == [None] * 14 + [0] * 4
    assert str(problems.error()) == (
        'a.csv:2: labels are unknown: "x" (5 rows), "SMALL TALK" (3 rows), "yes" (2 rows), "a" (1 row), "b" (1 row) '
        'and 2 more; the adapter was trained on "small_talk", "no"; "SMALL TALK" is there written "small_talk" '
        "(14 rows have this: lines 2, 3, 4, 5, 6 and 9 more)"
    )


def test_one_unknown_label_is_counted_alone() -> None:
    rows = [Row({"label": label}, f"a.csv:{line}") for line, label in enumerate(["No", "yes", "No"], 2)]
    read_known_labels(rows, "label", ["no", "yes"], False, problems := Problems())
    assert str(problems.error()) == (
        'a.csv:2: the label "No" is unknown; the adapter was trained on "no", "yes"; "No" is there written "no" '
        "(2 rows have this: lines 2 and 4)"
    )
