"""The score that needs no reading of an input, and what is said of a model beside it."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from inlay.tasks.classify import Classify
from inlay.tasks.metric import METRICS
from inlay.tasks.naive import Judgement, NaiveBaseline

NAIVE = NaiveBaseline(name="the most frequent label", answer="ham", scores={"accuracy": 0.87, "loss": 0.4})


def judged(valid: float, test: float | None = None, same: str | None = None) -> Judgement:
    tuned = {"valid": {"accuracy": valid}} | ({} if test is None else {"test": {"accuracy": test}})
    return Judgement(
        by="accuracy", naive={"valid": NAIVE, "test": NAIVE}, tuned=tuned, same={"test": same} if same else {}
    )


def test_the_most_frequent_label_has_the_scores_of_its_share() -> None:
    rows = [SimpleNamespace(label=label) for label in (0, 1, 1, 1)]
    data = SimpleNamespace(
        labels=("spam", "ham", "unused"), splits={"valid": rows}, label_shares=lambda _: [0.25, 0.75, 0]
    )
    task: Any = Classify(base=None, tokenizer=None, config=None, data=data)  # pyright: ignore[reportArgumentType]
    found = task.naive("valid")
    assert found.told == 'the most frequent label, "ham"'
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.scores == pytest.approx({"accuracy": 0.75, "macro_f1": (2 * 0.75 / 1.75) / 2, "loss": entropy})


@pytest.mark.parametrize(
    ("valid", "test", "beaten"),
    [(0.9, 0.9, True), (0.87, 0.9, False), (0.9, 0.87, False), (0.9, None, True), (math.nan, None, None)],
)
def test_a_model_has_to_be_above_its_baseline_on_every_split(
    valid: float, test: float | None, beaten: bool | None
) -> None:
    assert judged(valid, test).beaten is beaten
    assert (judged(valid, test).finding is None) is (beaten is not False)


def test_the_finding_names_the_split_and_the_one_answer() -> None:
    said = judged(0.9, 0.87, "ham").finding
    assert said == (
        'accuracy 87.0 % on test is no better than the most frequent label, "ham" (87.0 %); every row gets "ham"'
    )


def test_a_loss_is_better_where_it_is_lower() -> None:
    naive = NaiveBaseline(name="the base model", scores={"loss": 4.0})
    for loss, beaten in ((3.9, True), (4.0, False), (4.1, False), (math.inf, None)):
        assert Judgement(by="loss", naive={"valid": naive}, tuned={"valid": {"loss": loss}}, same={}).beaten is beaten


def test_a_share_of_rows_is_written_with_its_interval_and_its_rows() -> None:
    accuracy, loss = METRICS["accuracy"], METRICS["loss"]
    assert accuracy.text_on(0.832, 500) == "83.2 % (95 % 79.7 to 86.2, 500 rows)"
    assert accuracy.text_on(1.0, 60) == "100 % (95 % 94.0 to 100, 60 rows)"
    assert accuracy.text_on(0.832, 500, tell_rows=False) == "83.2 % (79.7 to 86.2)"
    assert accuracy.text_on(0.832, None) == "83.2 %"
    assert loss.text_on(0.832, 500) == "0.832"


def test_the_finding_is_as_sure_as_its_rows_allow() -> None:
    said = Judgement(
        by="accuracy", naive={"valid": NAIVE}, tuned={"valid": {"accuracy": 0.8}}, same={}, rows={"valid": 60}
    ).finding
    assert said is not None
    assert said.startswith("accuracy 80.0 % (95 % 68.2 to 88.2, 60 rows) on valid is no better than")
