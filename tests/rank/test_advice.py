import math
from types import SimpleNamespace
from typing import Any

from inlay.lab.rank.advice import advice, cut_text, gain_text
from inlay.lab.rank.curve import CutCurve
from inlay.stats import Difference
from inlay.tasks.metric import METRICS


def analysis(gain: Difference) -> Any:
    scores = {"loss": 5.9}
    point = SimpleNamespace(rank=4, parameters=10, scores=scores, gain=gain)
    curve: Any = CutCurve(split="valid", rows=16, score="loss", whole=scores, points=[point])
    return SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora", cut=None)


def test_a_gain_of_one_batch_is_no_reason_to_cut() -> None:
    one = analysis(Difference(-0.01, -math.inf, math.inf))
    assert "inf" not in gain_text(METRICS["loss"], one.curve.points[0])
    assert advice(one)[0].startswith("Which ranks keep the score cannot be told on the 16 rows of valid")
    several = analysis(Difference(-0.01, -0.02, 0.01))
    assert "95 % −0.0200 to +0.0100" in gain_text(METRICS["loss"], several.curve.points[0])
    assert advice(several)[0].startswith("Rank 4 keeps the score")


def test_what_is_lost_on_few_rows_is_not_called_kept_though_it_is_not_clear() -> None:
    """20 rows: 60 % whole, 35 % at rank 1, of which the interval reaches above zero."""
    ranks = {4: (0.60, Difference(0.0, 0.0, 0.0)), 1: (0.35, Difference(-0.25, -0.48, 0.02))}
    points: Any = [
        SimpleNamespace(rank=rank, parameters=rank, scores={"accuracy": score}, gain=gain)
        for rank, (score, gain) in ranks.items()
    ]
    curve: Any = CutCurve(split="valid", rows=20, score="accuracy", whole={"accuracy": 0.60}, points=points)
    result: Any = SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora", cut=None)
    assert advice(result)[0].startswith("Rank 4 keeps the score on the 20 rows of valid: accuracy 60.0 %")


def test_a_rank_that_may_have_lost_five_points_is_not_called_kept() -> None:
    """16 rows: as right as the whole, but of two rows that differ the interval is ±15 points."""
    few, many = Difference(0.0, -0.15, 0.15), Difference(-0.002, -0.012, 0.008)
    for gain, rows, said in (
        (few, 16, "Rank 1 may keep the score, which cannot be told on the 16 rows of valid"),
        (many, 2_000, "Rank 1 keeps the score on the 2,000 rows of valid"),
    ):
        scores = {"accuracy": 0.6}
        point: Any = SimpleNamespace(rank=1, parameters=1, scores=scores, gain=gain)
        curve: Any = CutCurve(split="valid", rows=rows, score="accuracy", whole=scores, points=[point])
        result: Any = SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora", cut=None)
        assert advice(result)[0].startswith(said)
        assert ("More rows" in advice(result)[0]) == (rows == 16)


def test_a_cut_says_what_it_has_lost_and_whether_that_can_be_told() -> None:
    def cut(gain: Difference, rows: int) -> Any:
        point = SimpleNamespace(scores={"accuracy": 0.6 + gain.value}, gain=gain)
        return SimpleNamespace(whole={"accuracy": 0.6}, chosen=point, rows=rows)

    accuracy = METRICS["accuracy"]
    assert cut_text(cut(Difference(0.0, -0.15, 0.15), 16), accuracy) == (
        "accuracy 60.0 % whole -> 60.0 % cut: +0.0 points (95 % −15.0 to +15.0) on 16 rows, whether that is kept "
        "cannot be told"
    )
    assert cut_text(cut(Difference(-0.2, -0.3, -0.1), 60), accuracy).endswith("on 60 rows, worse")
    assert cut_text(cut(Difference(0.0, -0.02, 0.02), 400), accuracy).endswith("on 400 rows, kept")
