"""The real data sets beside the repository, where there are any."""

import re
from pathlib import Path

import pytest

from inlay.data.classification import load_classification
from inlay.data.describe import describe
from inlay.data.settings import DataSettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PAIRS = {
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "boolq": ("question", "passage"),
}
CLASSES = {
    "sst2": 2,
    "cr": 2,
    "mpqa": 2,
    "subj": 2,
    "trec": 6,
    "ag_news": 4,
    "emotion": 6,
    "banking77": 77,
    "cola": 2,
    "rte": 2,
    "mrpc": 2,
    "boolq": 2,
    "clinc150": 150,
}

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED}")


def documented_counts(name: str) -> dict[str, int]:
    """`train 6909 / valid 872 / test 1821` of the line about `name` in the README there."""
    line = next(line for line in (SHARED / "README.md").read_text().splitlines() if line.startswith(f"| {name} |"))
    return {split: int(count) for split, count in re.findall(r"(train|valid|test) (\d+)", line)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_classification_set_loads_as_documented(name):
    data = load_classification(DataSettings(path=str(SHARED / name)))
    assert {split: len(examples) for split, examples in data.splits.items()} == documented_counts(name)
    assert data.labels == tuple(str(i) for i in range(CLASSES[name]))
    assert (data.columns["text"], data.columns.get("text_pair")) == PAIRS.get(name, ("text", None))
    assert "label_name" in data.ignored_columns
    assert data.valid_from == "valid.jsonl"


@pytest.mark.parametrize("name", CLASSES)
def test_every_classification_set_is_described_without_errors(name):
    found = describe(DataSettings(path=str(SHARED / name)))
    assert {split: report.rows for split, report in found.splits.items()} == documented_counts(name)
    assert [problem for problem in found.problems if problem.severity == "error"] == []
    assert not [duplicates for duplicates in found.duplicates if len(duplicates.splits) == 2]


def test_a_file_that_is_no_split_is_listed_as_ignored():
    assert describe(DataSettings(path=str(SHARED / "clinc150"))).ignored_files == ("SOURCE.md", "oos.jsonl")


@pytest.mark.parametrize("name", ["sst2", "banking77", "trec"])
def test_a_train_file_alone_is_split_with_every_label_in_both_parts(name):
    data = load_classification(DataSettings(path=str(SHARED / name / "train.jsonl")))
    rows = documented_counts(name)["train"]
    assert len(data.splits["valid"]) == min(round(rows * 0.05), 500)
    assert {e.label for e in data.splits["valid"]} == {e.label for e in data.splits["train"]}
    assert not {e.text for e in data.splits["valid"]} & {e.text for e in data.splits["train"]}


@pytest.mark.parametrize("name", ["alpaca", "dolly"])
def test_instructions_are_described(name):
    found = describe(DataSettings(path=str(SHARED / name)))
    assert (found.format, found.problems) == ("instruction", ())
    assert found.columns == {"instruction": "instruction", "input": "input", "output": "output"}
