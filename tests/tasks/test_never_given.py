"""A label that no row is given is told, as a score that is good on average hides it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import inlay
from inlay.tasks.classify import Classify
from inlay.tasks.evaluation import Evaluation
from inlay.tasks.never_given import never_given_text
from inlay.tasks.page import Judged

from ..compare.fakes import comparison_of, write_classifier
from ..report.fake_runs import summary


def counted(given: list[int], wanted: list[int]) -> dict[str, int]:
    """Let a classifier of three labels give some to the rows of valid that want others."""
    task: Any = SimpleNamespace(
        labels=("fees", "lost", "refund"),
        data=SimpleNamespace(splits={"valid": [SimpleNamespace(label=label) for label in wanted]}),
    )
    found = Evaluation({"loss": 1.0}, None, torch.eye(3)[given])
    return Classify.never_given(task, "valid", found)


def test_a_label_of_several_rows_that_none_is_given_is_counted() -> None:
    assert counted([0, 0, 2, 2, 0], [0, 1, 1, 1, 2]) == {"lost": 3}
    assert counted([0, 1, 2, 2, 0], [0, 1, 1, 1, 2]) == {}
    assert counted([0, 0, 2, 2, 0], [0, 1, 1, 2, 2]) == {}  # two rows say little
    assert counted([0, 0, 0, 0, 0], [0, 1, 1, 1, 2]) == {}  # one answer to all is told as that


def test_it_is_said_in_words() -> None:
    assert never_given_text({}, "no row of valid") is None
    found = never_given_text({"lost": 3}, "no row of valid")
    assert found == 'no row of valid is given a label that some have: "lost" (3 rows)'
    assert never_given_text({"a": 3, "b": 12}, "none of these rows") == (
        'none of these rows is given labels that some have: "a" (3 rows), "b" (12 rows)'
    )


def test_the_verdict_of_a_page_says_so() -> None:
    notes = Judged.from_summary(summary(never_given={"lost": 3})).notes(score="accuracy")
    assert 'No row of valid is given a label that some have: "lost" (3 rows).' in notes
    assert "given" not in " ".join(Judged.from_summary(summary()).notes(score="accuracy"))


def test_a_comparison_says_whose_score_hides_it(tmp_path: Path) -> None:
    def write(trial: Any, accuracy: float, rows: int, forgetting: bool) -> None:
        write_classifier(trial, accuracy, rows, forgetting, majority=0.5)
        if trial.label == "lora" and trial.seed == 1:
            path = trial.folder / "summary.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"never_given": {"lost": 3}}))

    found = comparison_of(tmp_path, {"lora": (0.97, 0.97), "full": (0.96, 0.97)}, write=write).advice
    assert found is not None
    assert found.caveats == ('lora in 1 of 2 runs: no row of valid is given a label that some have: "lost" (3 rows).',)


def test_a_run_and_its_evaluation_say_so(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classify, "never_given", lambda task, split, found: {"lost": 3})
    run = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", epochs=1, forgetting=False, progress=False)
    said = 'no row of valid is given a label that some have: "lost" (3 rows)'
    assert said in (run.folder / "log.txt").read_text()
    assert json.loads((run.folder / "summary.json").read_text())["never_given"] == {"lost": 3}
    assert said in run.evaluate()["notes"]
    others = run.evaluate(str(Path(reviews_folder) / "test.jsonl"))["notes"]
    assert said.replace("no row of valid", "none of these rows") in others
