import pytest

from inlay.tasks.classify import verdict
from inlay.tasks.confusion import gain_interval
from inlay.tasks.page import Judged

from ..report.fake_runs import summary
from .test_confusion import predictions

LABELS = [str(number) for number in range(10)]


def judged(base: float, tuned: float, rows: int = 100, labels: list[str] = LABELS, test=None, status="finished"):
    scores = {"base": {"accuracy": base}, "tuned": {"accuracy": tuned}, "test": test}
    found = summary(status=status, metrics={"split": "valid", "rows": rows} | scores)
    return verdict(Judged.from_summary(found), labels, [])


def test_a_gain_beyond_its_uncertainty_is_called_one():
    result = judged(0.1, 0.9)
    assert result.kind == "better"
    assert "rose by 80.0 points on the 100 rows of the valid split, which exceeds its uncertainty" in result.sentence


def test_a_gain_within_its_uncertainty_is_not_called_one():
    result = judged(0.5, 0.55, labels=["no", "yes"])
    assert result.kind == "unclear"
    assert "No clear gain: accuracy changed by +5.0 points" in result.sentence
    assert "(95 % interval −8.7 to +18.4)" in result.sentence


def test_a_loss_beyond_its_uncertainty_is_called_one():
    result = judged(0.9, 0.5, labels=["no", "yes"])
    assert result.kind == "worse"
    assert "fell by 40.0 points" in result.sentence


def test_a_base_model_near_chance_is_said_to_guess():
    assert "so its accuracy of 12.0 % is about chance (10.0 % for 10 labels)" in judged(0.12, 0.9).notes[0]


def test_a_base_model_away_from_chance_is_not_said_to_guess():
    assert "accuracy of 31.0 % is not chance (10.0 % for 10 labels)" in judged(0.31, 0.9).notes[0]


def test_the_choice_of_the_checkpoint_and_the_test_figure_are_told():
    assert "no test split to check them on" in judged(0.1, 0.9).notes[1]
    with_test = judged(0.1, 0.9, test={"accuracy": 0.861}).notes[1]
    assert "chosen on the valid split" in with_test
    assert "on the test split, which no choice was made on, accuracy is 86.1 %" in with_test


def test_an_unfinished_run_with_scores_is_judged_as_unfinished():
    assert "The run is interrupted" in judged(0.1, 0.9, status="interrupted").notes[0]


@pytest.mark.parametrize(("status", "words"), [("failed", "The run failed"), ("interrupted", "was interrupted")])
def test_a_run_without_scores_is_not_judged(status, words):
    result = verdict(Judged.from_summary(summary(status=status, metrics=None)), [], [])
    assert (result.kind, result.notes) == ("unknown", [])
    assert words in result.sentence


def test_the_interval_uses_the_pairing_only_when_every_row_is_there():
    rows = predictions([("a", "a", "a", 0.9)] * 60 + [("a", "a", "b", 0.9)] * 10 + [("a", "b", "b", 0.9)] * 30)
    paired = gain_interval(0.6, 0.7, 100, rows)
    unpaired = gain_interval(0.6, 0.7, 100, rows[:-1])
    assert paired[0] > 0 > unpaired[0]
    without_base = predictions([("a", "a", None, 0.9)] * 100)
    assert gain_interval(0.6, 0.7, 100, without_base) == unpaired
