"""Labels that are written alike are told of by `data` and by `train`, which both look here."""

from pathlib import Path

import pytest

import inlay
from inlay.data.alike_labels import alike_labels

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
