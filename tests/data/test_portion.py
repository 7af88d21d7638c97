"""data.train_rows and data.eval_rows: a part of each split, the same one each time, and said."""

from pathlib import Path

import pytest

from inlay.bases.base import find_base
from inlay.cli import main
from inlay.data.classification import load_classification
from inlay.data.describe import describe
from inlay.data.generation import load_generation
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.inference.evaluation import scored_rows
from inlay.lab.compare.trial import other_data
from inlay.tasks.classify import Classify

from .files import labelled, write_jsonl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 40), ("valid", 12), ("test", 9)):
        write_jsonl(tmp_path / f"{split}.jsonl", labelled(count, ("a", "a", "b", "b")))
    return tmp_path


def places(rows: list) -> list[int]:
    return [int(row.place.partition(":")[2]) for row in rows]


def test_rows_are_evenly_spread_over_each_split_and_a_warning_says_so(folder: Path) -> None:
    data = load_classification(DataSettings(path=str(folder), train_rows=12, eval_rows=9))
    assert places(data.splits["train"]) == [1, 4, 7, 11, 14, 17, 21, 24, 27, 31, 34, 37]
    assert places(data.splits["valid"]) == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert places(data.splits["test"]) == list(range(1, 10))
    assert [str(problem) for problem in data.warnings] == [
        "train.jsonl: 12 of the 40 rows of train are used, evenly spread (data.train_rows)",
        "valid.jsonl: 9 of the 12 rows of valid are used, evenly spread (data.eval_rows)",
    ]
    assert load_classification(DataSettings(path=str(folder), train_rows=40)).warnings == ()


def test_texts_to_write_likewise_and_what_is_held_out_is_held_out_of_all_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(400)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    whole = load_generation(DataSettings(path=path))
    part = load_generation(DataSettings(path=path, train_rows=8, eval_rows=5))
    assert len(part.splits["train"]) == 8
    assert len(part.splits["valid"]) == 5
    assert {row.place for row in part.splits["valid"]} < {row.place for row in whole.splits["valid"]}
    assert len(part.warnings) == 2


def test_a_label_of_which_no_row_is_left_is_said(folder: Path) -> None:
    data = load_classification(DataSettings(path=str(folder), train_rows=1))
    assert data.labels == ("a", "b")
    assert any('no row of train that is used has the label "b"' in str(problem) for problem in data.warnings)


def test_inlay_data_describes_the_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = describe(DataSettings(path=str(folder), train_rows=10))
    assert {split: found.rows for split, found in report.splits.items()} == {"train": 10, "valid": 12, "test": 9}
    assert main(["data", str(folder), "--data.train-rows", "10"]) == 0
    assert "10 of the 40 rows of train are used" in " ".join(capsys.readouterr().out.split())


def test_other_data_to_learn_are_as_few_and_other_data_to_evaluate_are_whole(folder: Path, tiny_bert: str) -> None:
    asked = DataSettings(path="somewhere", train_rows=10, eval_rows=4)
    assert other_data(asked, str(folder)) == DataSettings(path=str(folder), train_rows=10, eval_rows=4)
    about = {"data": {"path": "somewhere", "eval_rows": 4}, "labels": ["a", "b"], "max_length": 16}
    base = find_base(tiny_bert)
    task = scored_rows(Classify.of_adapter(base, base.tokenizer(), about), str(folder))
    assert len(task.data.splits["test"]) == 9


@pytest.mark.parametrize("name", ["train_rows", "eval_rows"])
def test_no_rows_at_all_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"data.{name} is 0; it must be at least 1"):
        DataSettings(path="a", **{name: 0})  # pyright: ignore[reportArgumentType]


def test_a_run_trains_on_the_part_and_says_so(tiny_bert: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ["--data.train-rows", "16", "--data.eval-rows", "8", "--epochs", "1", "--out", str(out)]
    assert main(["train", tiny_bert, str(folder), "--method", "bitfit", *asked]) == 0
    log = (out / "log.txt").read_text()
    assert "train 16 · valid 8 · test 8" in log
    assert "16 of the 40 rows of train are used" in log
