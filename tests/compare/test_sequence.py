"""Tasks learned one after another, measured."""

import dataclasses
import json
from pathlib import Path

import pytest

from inlay.data.settings import DataSettings
from inlay.errors import CheckpointError
from inlay.lab.compare.sequence import APART, ON, sequences
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.table import matrix_of
from inlay.lab.compare.trial import Budget, Trial, plain_trials
from inlay.lab.compare.worker import run_trial
from inlay.training.shared_base import SharedBase

from ..tiny_models import reviews, write_rows
from .fakes import contender


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same sentences by what they are about, and with the reviews' two labels the other way round."""
    folder = tmp_path_factory.mktemp("nouns")
    for split, start, count in (("train", 0, 120), ("valid", 120, 30)):
        rows = [row | {"label": row["text"].split()[1]} for row in reviews(count, start)]
        write_rows(folder / f"{split}.jsonl", rows)
    return str(folder)


def test_adapters_apart_keep_what_they_know_and_one_that_trains_on_is_measured(
    tiny_bert: str, reviews_folder: str, three_labels: str, tmp_path: Path
) -> None:
    comparison = CompareSettings(
        model=tiny_bert, data=DataSettings(path=reviews_folder), then=(three_labels,), dtype="float32"
    )
    contenders = [contender("lora"), contender("p-tuning"), contender("full")]
    rates: dict[str, float | None] = {"lora": 2e-2, "full": 2e-2, "p-tuning": 2e-1}
    first = plain_trials(comparison, contenders, tmp_path, rates, Budget(4, 32))
    chains = sequences(comparison, contenders, first, tmp_path, [Budget(4, 32)])
    assert [(c.label, c.way) for c in chains] == [
        ("lora", APART),
        ("lora", ON),
        ("p-tuning", APART),
        ("p-tuning", ON),
        ("full", ON),
    ]
    stages = {stage.name: stage for chain in chains for stage in chain.stages}
    for stage in stages.values():
        run_trial(stage, SharedBase(), lambda _: None, ())
    assert all(stage.is_finished for stage in stages.values())

    matrices = {(c.label, c.way): matrix_of(c, {}) for c in chains}
    assert all(matrix is not None and [len(row) for row in matrix] == [1, 2] for matrix in matrices.values())
    for chain in chains:
        learned, then = chain.stages
        summary = learned.summary()
        assert summary is not None
        before, (after,) = summary["metrics"]["test"], then.scores_on_earlier()
        if chain.way == APART:
            assert after == pytest.approx(before, rel=1e-5)  # measured, from its files
        else:
            assert abs(after["loss"] - before["loss"]) > 1e-4  # the body has moved on under the old head

    # trained on and on means from the first task's adapter, not from where one that is trained alone begins
    for label in ("lora", "p-tuning", "full"):
        begins = {chain.way: _first_loss(chain.stages[1]) for chain in chains if chain.label == label}
        assert len(set(begins.values())) == len(begins)


def _first_loss(trial: Trial) -> float:
    lines = map(json.loads, (trial.folder / "metrics.jsonl").read_text().splitlines())
    return next(event["loss"] for event in lines if event["event"] == "step")


def test_another_methods_adapter_is_no_start(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    comparison = CompareSettings(model=tiny_bert, data=DataSettings(path=reviews_folder), dtype="float32")
    contenders = [contender("lora"), contender("pfeiffer")]
    lora, pfeiffer = plain_trials(comparison, contenders, tmp_path, {}, Budget(1, 32))
    run_trial(lora, SharedBase(), lambda _: None, ())
    with pytest.raises(CheckpointError, match="made by another method"):
        run_trial(dataclasses.replace(pfeiffer, start=lora.folder), SharedBase(), lambda _: None, ())
