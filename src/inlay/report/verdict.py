"""What the figures allow one to say about a run, in sentences."""

from dataclasses import dataclass
from typing import Any, Literal

from ..show.units import PERCENT, percent_text, points_text, text_or_unknown
from ..stats import Interval, unpaired_gain_interval, wilson_interval
from .classification import Prediction, paired_gain_interval


@dataclass(frozen=True, kw_only=True)
class Verdict:
    kind: Literal["better", "unclear", "worse", "unknown"]
    sentence: str
    notes: list[str]
    """What a reader must know before trusting the sentence."""


def verdict(summary: dict[str, Any], labels: list[str], predictions: list[Prediction]) -> Verdict:
    """Whether the accuracy gained exceeds its uncertainty, and what else limits that claim."""
    metrics = summary.get("metrics") or {}
    base, tuned = metrics.get("base"), metrics.get("tuned")
    if not base or not tuned:
        ended = {"failed": "failed", "interrupted": "was interrupted"}.get(summary["status"], "ended")
        sentence = f"The run {ended} before it had scores to compare, so there is nothing to judge."
        return Verdict(kind="unknown", sentence=sentence, notes=[])

    rows, split = metrics["rows"], metrics["split"]
    if summary.get("task") == "causal":
        return _of_texts(summary["status"], base, tuned, metrics)
    gain = tuned["accuracy"] - base["accuracy"]
    interval = gain_interval(base["accuracy"], tuned["accuracy"], rows, predictions)
    kind = "better" if interval[0] > 0 else "worse" if interval[1] < 0 else "unclear"
    notes = [_base_note(base["accuracy"], rows, len(labels)), _choice_note(metrics, split)]
    if summary["status"] != "finished":
        notes.insert(0, _best_so_far(summary["status"]))
    return Verdict(kind=kind, sentence=_sentence(kind, gain, interval, rows, split), notes=notes)


def _of_texts(status: str, base: dict[str, Any], tuned: dict[str, Any], metrics: dict[str, Any]) -> Verdict:
    fell, rows, split = tuned["loss"] < base["loss"], metrics["rows"], metrics["split"]
    sentence = (
        f"The loss {'fell' if fell else 'rose'} from {base['loss']:.3f} to {tuned['loss']:.3f} nats per learned token "
        f"on the {rows} rows of the {split} split: perplexity {_perplexity(base)} became {_perplexity(tuned)}."
    )
    notes = [] if status == "finished" else [_best_so_far(status)]
    test = metrics.get("test")
    chosen = f"The best checkpoint was chosen on the {split} split, so its figures there are slightly optimistic"
    checked = (
        f"on the test split, which no choice was made on, the loss is {test['loss']:.3f}"
        if test
        else "there was no test split to check them on"
    )
    return Verdict(kind="better" if fell else "worse", sentence=sentence, notes=[*notes, f"{chosen}; {checked}."])


def _perplexity(scores: dict[str, Any]) -> str:
    return text_or_unknown("{:.2f}".format, scores["perplexity"])  # of a high loss it is beyond any number


def gain_interval(base: float, tuned: float, rows: int, predictions: list[Prediction]) -> Interval:
    """The 95 % interval of the gain, from the predictions if they are all there and include the base model's."""
    if len(predictions) == rows and all(p.base_predicted is not None for p in predictions):
        return paired_gain_interval(predictions)
    return unpaired_gain_interval(base, tuned, rows)


def _sentence(kind: str, gain: float, interval: Interval, rows: int, split: str) -> str:
    low, high = (points_text(bound) for bound in interval)
    spread = f"95 % interval {low} to {high}"
    where = f"the {rows} rows of the {split} split"
    if kind == "unclear":
        return (
            f"No clear gain: accuracy changed by {points_text(gain)} points on {where}, "
            f"which is within its uncertainty ({spread})."
        )
    direction = "rose" if kind == "better" else "fell"
    return (
        f"Accuracy {direction} by {PERCENT.difference(abs(gain))} on {where}, which exceeds its uncertainty ({spread})."
    )


def _best_so_far(status: str) -> str:
    return f"The run is {status}: these are the figures of its best checkpoint so far."


def _base_note(accuracy: float, rows: int, label_count: int) -> str:
    chance = 1 / label_count
    low, high = wilson_interval(accuracy, rows)
    chance_text = f"{percent_text(chance)} for {label_count} labels"
    if low <= chance <= high:
        return (
            f"The base model carries a new, untrained classification head, so its accuracy of {percent_text(accuracy)} "
            f"is about chance ({chance_text}): any gain is that of the head and the adapter together."
        )
    return (
        f"The base model carries a new, untrained classification head, which favours some labels at random: its "
        f"accuracy of {percent_text(accuracy)} is not chance ({chance_text}), but nothing learned for this task either."
    )


def _choice_note(metrics: dict[str, Any], split: str) -> str:
    chosen = f"The best checkpoint was chosen on the {split} split, so its figures there are slightly optimistic"
    test = metrics.get("test")
    if not test:
        return f"{chosen}; there was no test split to check them on."
    return f"{chosen}; on the test split, which no choice was made on, accuracy is {percent_text(test['accuracy'])}."
