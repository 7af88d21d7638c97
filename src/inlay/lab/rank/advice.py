"""What follows from the figures, in sentences, with how sure it is."""

import math
from collections.abc import Iterator

from ...show.units import UNKNOWN, count_text, counted
from ...stats import Difference
from ...tasks.metric import METRICS, Metric, Scores
from .analysis import Analysis, Layer, by_role, middle
from .curve import CutCurve, Point
from .export import Cut


def advice(result: Analysis) -> list[str]:
    return [*_of_curve(result), *_of_base(result), *_of_other(result), *_of_ranks(result)]


_MARGIN = 0.02  # two points, or two percent of a loss: on few rows more than that can be lost without being clear
_RULED_OUT = 0.05  # likewise: what the interval must exclude before a score is called kept


def smallest_that_keeps(curve: CutCurve) -> Point | None:
    """Return the smallest rank at which, as at every larger one measured, the score is neither clearly worse than the
    whole's nor more than two points, or two percent of a loss, below it.
    """
    found = None
    for point in curve.points:  # from the largest rank down
        if point.gain.high < 0 or point.gain.value < -_share(_MARGIN, METRICS[curve.score], curve.whole):
            break
        found = point
    return found


def kept(gain: Difference, metric: Metric, whole: Scores) -> bool | None:
    """Tell whether a cut has kept the score of the whole; None where the rows are too few to tell, as it may as well
    have lost five points, or five percent of a loss."""
    if gain.high < 0:
        return False
    return True if gain.low >= -_share(_RULED_OUT, metric, whole) else None


def _share(share: float, metric: Metric, whole: Scores) -> float:
    """Return a share of all that a score can be, or of a loss."""
    most = metric.limits[1]
    return share * (most if math.isfinite(most) else abs(whole[metric.name]))


def gain_text(metric: Metric, point: Point) -> str:
    """Write `−0.4 points (95 % −1.5 to +0.6)`; of a loss, how much lower it is, in nats."""
    sure = f"95 % {interval_text(metric, point)}" if math.isfinite(point.gain.low) else "too few rows to tell how sure"
    return f"{metric.unit.change(point.gain.value)}{metric.difference_unit} ({sure})"


def cut_text(cut: Cut, metric: Metric) -> str:
    """Say what a cut that was written has lost of the score, as far as its rows can tell."""
    whole, point = cut.whole, cut.chosen
    found = {True: "kept", False: "worse", None: "whether that is kept cannot be told"}[kept(point.gain, metric, whole)]
    return (
        f"{metric.label} {exact_text(metric, whole)} whole -> {exact_text(metric, point.scores)} cut: "
        f"{gain_text(metric, point)} on {counted(cut.rows, 'row')}, {found}"
    )


def interval_text(metric: Metric, point: Point) -> str:
    """Write `−1.5 to +0.6`; a dash where the rows are too few to tell."""
    unit, gain = metric.unit, point.gain
    return f"{unit.change(gain.low)} to {unit.change(gain.high)}" if math.isfinite(gain.low) else UNKNOWN


def _of_curve(result: Analysis) -> Iterator[str]:
    curve = result.curve
    if curve is None or not curve.points:
        return
    smallest, largest = smallest_that_keeps(curve), curve.points[0]
    metric = METRICS[curve.score]
    whole = exact_text(metric, curve.whole)
    where = f"on the {curve.rows:,} rows of {curve.split}"
    if not math.isfinite(largest.gain.low):
        yield f"Which ranks keep the score cannot be told {where}: too few for an interval. Take more, with --data."
        return
    meaning = "" if metric.higher_is_better else f", where above zero is a lower {metric.label}"
    if smallest is None:
        yield (
            f"Even at rank {largest.rank} the cut adapter is worse {where}: {metric.label} "
            f"{exact_text(metric, largest.scores)} against {whole}, "
            f"{gain_text(metric, largest)}{meaning}. The update needs more directions than that."
        )
        return
    told = kept(smallest.gain, metric, curve.whole)
    of_largest = f" against {count_text(largest.parameters)} at rank {largest.rank}"
    fewer = of_largest if smallest.rank < largest.rank else ""
    found = f"keeps the score {where}" if told else f"may keep the score, which cannot be told {where}"
    yield (
        f"Rank {smallest.rank} {found}: {metric.label} "
        f"{exact_text(metric, smallest.scores)} against {whole} whole, "
        f"{gain_text(metric, smallest)}{meaning}; {count_text(smallest.parameters)} parameters in the layers"
        f"{fewer}." + ("" if told else " More rows, named with --data, would tell.")
    )
    if smallest.rank < largest.rank and result.cut is None:
        yield (
            f"Cut it with --to {smallest.rank} --out FOLDER. A new run at rank {smallest.rank} need not do as well: "
            "what a cut leaves is the best part of a larger update."
        )


def exact_text(metric: Metric, scores: Scores) -> str:
    """Write the score so exactly that differences show."""
    return metric.text(scores[metric.name]) if metric.unit.is_share else f"{scores[metric.name]:.4f}"


def _of_base(result: Analysis) -> Iterator[str]:
    known = [layer for layer in result.layers if layer.base is not None]
    if not known:
        return
    left, right, by_chance = [], [], []
    for layer in known:
        assert layer.base is not None
        left.append(layer.base.overlap.left)
        right.append(layer.base.overlap.right)
        by_chance.append(layer.base.overlap.random_right)
    yield (
        f"The update's leading directions overlap with the base's by {middle(right)[0]:.3f} on the input side and "
        f"{middle(left)[0]:.3f} on the output side (median over the layers), where random ones have "
        f"{middle(by_chance)[0]:.3f}."
    )
    count = sum(layer.base.intruders for layer in known if layer.base is not None)
    layers = sum(1 for layer in known if layer.base is not None and layer.base.intruders)
    what = "is an intruder" if count == 1 else "are intruders"
    yield (
        f"{count} of the {10 * len(known)} leading directions of the tuned weights {what}, unlike any of the base's, "
        f"in {layers} of {len(known)} layers."
        + (" Many of them go with more forgetting (https://arxiv.org/abs/2410.21228)." if count else "")
    )


def _of_other(result: Analysis) -> Iterator[str]:
    compared = [layer.other for layer in result.layers if layer.other is not None]
    if not compared:
        return
    right, by_chance = ([getattr(c.overlap, n) for c in compared] for n in ("right", "random_right"))
    yield (
        f"With {result.compared_with} the update shares {middle(right)[0]:.3f} of its leading input directions, where "
        f"chance gives {middle(by_chance)[0]:.3f}; the cosine between the updates is "
        f"{middle([c.cosine for c in compared])[0]:.3f} (medians)."
    )


def _of_ranks(result: Analysis) -> Iterator[str]:
    empty = [layer.name for layer in result.layers if layer.ranks.numerical == 0]
    if empty:
        yield f"{len(empty)} of {len(result.layers)} layers have no update at all, such as {empty[0]}."
    roles = by_role(result.layers)
    if len(roles) > 1:
        most = max(roles, key=lambda role: _effective(roles[role]))
        least = min(roles, key=lambda role: _effective(roles[role]))
        if most == least:
            return
        yield (
            f"The effective rank is highest in {most} (median {_effective(roles[most]):.1f}) and lowest in {least} "
            f"({_effective(roles[least]):.1f})."
        )


def _effective(layers: list[Layer]) -> float:
    return middle([layer.ranks.effective for layer in layers])[0]
