"""Data that the runs here learn, and general text that their small tokenizer knows the words of."""

import pytest

from ..tiny_models import WORDS, write_rows
from .test_geometry import sayable


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"prompt": f"the {WORDS[6 + i % 3]} was", "completion": "so very good"} for i in range(48)]
    folder = tmp_path_factory.mktemp("completions")
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "valid.jsonl", rows[:3])
    return str(folder)


@pytest.fixture(scope="module")
def retain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """General text that the small tokenizer knows the words of."""
    rows = [{"text": p.text, "domain": p.domain} for p in sayable(160).measured]
    return write_rows(tmp_path_factory.mktemp("retain") / "general.jsonl", rows)
