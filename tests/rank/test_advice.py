import math
from types import SimpleNamespace
from typing import Any

from inlay.lab.rank.advice import advice, gain_text
from inlay.lab.rank.curve import Curve
from inlay.stats import Difference


def analysis(gain: Difference) -> Any:
    scores = {"loss": 5.9}
    point = SimpleNamespace(rank=4, parameters=10, scores=scores, gain=gain)
    curve: Any = Curve(split="valid", rows=16, score="loss", whole=scores, points=[point])
    return SimpleNamespace(curve=curve, trainable=20, layers=[], other=None, method="lora")


def test_a_gain_of_one_batch_is_no_reason_to_cut() -> None:
    one = analysis(Difference(-0.01, -math.inf, math.inf))
    assert "inf" not in gain_text(one.curve, one.curve.points[0])
    assert advice(one)[0].startswith("Which ranks keep the score cannot be told on the 16 rows of valid")
    several = analysis(Difference(-0.01, -0.02, 0.01))
    assert "95 % −0.0200 to +0.0100" in gain_text(several.curve, several.curve.points[0])
    assert advice(several)[0].startswith("Rank 4 keeps the score")
