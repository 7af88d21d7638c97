"""The small base and rows with which the tests of resuming work, and a file of rows that would take over a terminal."""

import pytest

from ..tiny_models import reviews, write_rows
from ..training.resume.conftest import dropping_bert, few_reviews
from .hostile_text import EVIL, NAME

__all__ = ["dropping_bert", "few_reviews"]


@pytest.fixture(scope="module")
def evil_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evil")
    renamed = {"positive": f"good{EVIL}", "negative": "bad\n\x1b[31m"}
    rows = [
        {"text": f"{row['text']} {EVIL}", "label": renamed[row["label"]], f"more{EVIL}": 1, "a\tb\n": EVIL}
        for row in reviews(60)
    ]
    return write_rows(folder / f"rows{NAME}.jsonl", rows)
