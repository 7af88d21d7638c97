"""A classifier's gain over its baseline, in the verdict and in the tiles of a run's page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..show.units import counted, percent_text, points_text, shares_text
from ..stats import Interval, wilson_interval
from .confusion import Prediction, gain_interval
from .naive import NaiveBaseline
from .page import Judged, Tile, Verdict

BASE = "the base model"


def verdict(judged: Judged, predictions: Sequence[Prediction]) -> Verdict:
    """Judge whether the accuracy exceeds its baseline by more than its uncertainty, and say what else limits that
    claim. The baseline is the most frequent label, or the base model where that is clearly better: an untrained head
    can be a little above by chance."""
    has_gain = judged.tuned and judged.naive is not None  # even if full fine-tuning has changed the base
    if not has_gain and (none := judged.without_scores) is not None:
        return none
    gain = Gain.of(judged, predictions)
    low, high = gain.interval
    kind = "better" if low > 0 else "worse" if high < 0 else "unclear"
    where = f"{gain.told} ({percent_text(gain.floor)}) on the {judged.rows} rows of the {judged.split} split"
    notes = judged.notes(*_base_notes(judged), score="accuracy")
    over = f" over {BASE}" if gain.name == BASE else ""  # else it is what stands before the scores
    unclear = f"no clear gain{over} (95 % {_points(gain.interval)} points)" if kind == "unclear" else None
    return Verdict(kind=kind, sentence=_sentence(kind, gain.value, gain.interval, where), unclear=unclear, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much more accurate the tuned model is than its baseline, for the verdict and the tile alike."""

    value: float
    interval: Interval
    floor: float
    """The baseline's accuracy."""
    name: str
    told: str
    """The name with the answer, if every row gets the same."""

    @classmethod
    def of(cls, judged: Judged, predictions: Sequence[Prediction]) -> Self:
        """Compare scores that are there with their baseline."""
        tuned, naive = judged.tuned["accuracy"], judged.naive
        if naive is None or _is_base_better(judged, naive):
            floor, name, told, answer = judged.base["accuracy"], BASE, BASE, None
        else:
            floor, name, told, answer = naive.scores["accuracy"], naive.name, naive.told, naive.answer
        interval = gain_interval(floor, tuned, judged.rows, predictions, answer)
        return cls(value=tuned - floor, interval=interval, floor=floor, name=name, told=told)


def _sentence(kind: str, gain: float, interval: Interval, where: str) -> str:
    spread = f"95 % interval {_points(interval)}"
    side = "above" if gain >= 0 else "below"
    if kind == "unclear":
        return (
            f"No clear gain: accuracy is {100 * abs(gain):.1f} points {side} {where}, which is within its uncertainty "
            f"({spread})."
        )
    return f"Accuracy is {100 * abs(gain):.1f} points {side} {where}, which exceeds its uncertainty ({spread})."


def _points(interval: Interval) -> str:
    return " to ".join(map(points_text, interval))


def _is_base_better(judged: Judged, naive: NaiveBaseline) -> bool:
    """Tell whether the base model is clearly better; it is not known of one that full fine-tuning has changed."""
    base = judged.base.get("accuracy")
    return base is not None and wilson_interval(base, judged.rows)[0] > naive.scores["accuracy"]


def _base_notes(judged: Judged) -> Iterator[str]:
    if (base := judged.base.get("accuracy")) is None or not judged.base_is_random:
        return
    naive = judged.naive
    whose = (
        "no step was better than the new head as it was fitted before the first, so any gain is that of the head, and "
        "the adapter is as it began"
        if judged.kept_start
        else "any gain is that of the head and the adapter together"
    )
    if (start := judged.start.get("accuracy")) is not None and not judged.kept_start:
        whose += f" (with the head alone, fitted before the first step, accuracy was {percent_text(start)})"
    if naive is None or _is_base_better(judged, naive):
        yield (
            f"The base model carries a new classification head, and {whose}; before training its accuracy is "
            f"{percent_text(base)}."
        )
        return
    yield (
        "The baseline gives every row the label that most of these rows have. The base model's head is new and "
        f"answers at random: its accuracy of {percent_text(base)} is no baseline, and {whose}."
    )


def tiles(judged: Judged, always: Sequence[str], predictions: Sequence[Prediction]) -> list[Tile]:
    """Return the tiles of a classifier's scores, whose baseline is that of the verdict."""
    tuned, of_accuracy = judged.tuned, []
    if "accuracy" in tuned and "accuracy" in judged.base:
        gain = Gain.of(judged, predictions)
        of_accuracy.append(f"{points_text(gain.value)} points over {gain.name} (95 % {_points(gain.interval)})")
        if gain.name == BASE:
            judged = replace(judged, naive=None)
    if "accuracy" in tuned:
        sure = shares_text(wilson_interval(tuned["accuracy"], judged.rows))
        of_accuracy.append(f"95 % {sure} % on {counted(judged.rows, 'row')}")
    details = {"accuracy": of_accuracy, "macro_f1": ["mean over the labels"], "loss": [f"on the {judged.split} split"]}
    return judged.tiles(always, details)
