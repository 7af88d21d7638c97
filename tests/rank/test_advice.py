import math
from types import SimpleNamespace
from typing import Any

from inlay.lab.rank.advice import advice, gain_text
from inlay.lab.rank.curve import CutCurve
from inlay.stats import Difference


def analysis(gain: Difference) -> Any:
    scores = {"loss": 5.9}
    point = SimpleNamespace(rank=4, parameters=10, scores=scores, gain=gain)
    curve: Any = CutCurve(split="valid", rows=16, score="loss", whole=scores, points=[point])
    return SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora")


def test_a_gain_of_one_batch_is_no_reason_to_cut() -> None:
    one = analysis(Difference(-0.01, -math.inf, math.inf))
    assert "inf" not in gain_text(one.curve, one.curve.points[0])
    assert advice(one)[0].startswith("Which ranks keep the score cannot be told on the 16 rows of valid")
    several = analysis(Difference(-0.01, -0.02, 0.01))
    assert "95 % −0.0200 to +0.0100" in gain_text(several.curve, several.curve.points[0])
    assert advice(several)[0].startswith("Rank 4 keeps the score")


def test_what_is_lost_on_few_rows_is_not_called_kept_though_it_is_not_clear() -> None:
    """20 rows: 60 % whole, 35 % at rank 1, of which the interval reaches above zero."""
    ranks = {4: (0.60, Difference(0.0, 0.0, 0.0)), 1: (0.35, Difference(-0.25, -0.48, 0.02))}
    points: Any = [
        SimpleNamespace(rank=rank, parameters=rank, scores={"accuracy": score}, gain=gain)
        for rank, (score, gain) in ranks.items()
    ]
    curve: Any = CutCurve(split="valid", rows=20, score="accuracy", whole={"accuracy": 0.60}, points=points)
    result: Any = SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora")
    assert advice(result)[0].startswith("Rank 4 keeps the score on the 20 rows of valid: accuracy 60.0 %")
