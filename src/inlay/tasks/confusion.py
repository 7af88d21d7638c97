"""What a classifier's predictions say: confusions, scores by label, and how sure the figures are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from ..show.page import bar, excerpt, label, templates, unbroken
from ..show.table import Column, Table
from ..show.units import percent_text
from ..stats import Interval, paired_interval, unpaired_gain_interval
from .naive import MOST_FREQUENT, NaiveBaseline
from .page import PredictionLine

_LABELS_IN_MATRIX = 20
_SCORES_IN_SIGHT = 20
_PAIRS = 10
_MISTAKES = 15
_LONGEST = 300  # characters of a text


@dataclass(frozen=True, kw_only=True)
class Prediction:
    text: str
    pair: str | None
    label: str
    predicted: str
    probability: float
    label_probability: float
    base_predicted: str | None

    @classmethod
    def from_row(cls, row: PredictionLine) -> Self:
        """Read a line of predictions.jsonl."""
        base = row.get("base_predicted")
        return cls(
            text=row["text"],
            pair=row.get("pair"),
            label=str(row["label"]),
            predicted=str(row["predicted"]),
            probability=row["probability"],
            label_probability=row["label_probability"],
            base_predicted=None if base is None else str(base),
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A count of the confusion matrix, as it is coloured."""

    count: int
    heat: float
    """How strongly to colour it, from 0 to 1."""
    kind: str
    """`right`, or `wrong` off the diagonal."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    labels: list[str]
    counts: list[list[int]]
    """One row for each true label, one column for each predicted one."""
    others: list[int]
    """For each row, the predictions of labels that are not among `labels`."""

    @property
    def cells(self) -> list[list[Cell]]:
        rows = []
        for i, (counts, others) in enumerate(zip(self.counts, self.others, strict=True)):
            support = sum(counts) + others
            rows.append(
                [
                    # a single mistake among many rows must still be seen
                    Cell(count=n, heat=0.08 + 0.92 * n / support if n else 0, kind="right" if i == j else "wrong")
                    for j, n in enumerate(counts)
                ]
            )
        return rows


@dataclass(frozen=True, kw_only=True)
class LabelScores:
    """A share whose denominator is zero is None: no row has the label, or none was predicted to."""

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    base_recall: float | None


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    first: str
    second: str
    first_as_second: int
    second_as_first: int

    @property
    def total(self) -> int:
        return self.first_as_second + self.second_as_first


def classifier_section(
    split: str, labels: Sequence[str], predictions: Sequence[Prediction], base_is_random: bool
) -> str:
    """Return a page's part on a classifier, as HTML: its confusions, its scores by label and its mistakes. What a base
    with a new head answers is chance, and not shown."""
    scores = sorted(scores_by_label(labels, predictions), key=lambda row: (row.f1 is None, row.f1 or 0))
    known = {
        "split": split,
        "base_is_random": base_is_random,
        "labels": labels,
        "predictions": predictions,
        "confusion": confusion(labels, predictions, _LABELS_IN_MATRIX),
        "scores": _scores_table(scores[:_SCORES_IN_SIGHT], base_is_random),
        "more_scores": _scores_table(scores[_SCORES_IN_SIGHT:], base_is_random),
        "mistakes": _mistakes_table(worst_mistakes(predictions, _MISTAKES)),
        "mistake_count": sum(p.predicted != p.label for p in predictions),
        "pairs": _pairs_table(confused_pairs(predictions, _PAIRS)),
    }
    return templates("tasks").get_template("classify.html.j2").render(known)


def _scores_table(rows: Sequence[LabelScores], base_is_random: bool) -> Table:
    shares = ["precision", "recall", "F1", *([] if base_is_random else ["base recall"])]
    columns = [Column(name="label", html=label), Column(name="rows", right=True)]
    columns += [Column(name=name, html=bar, right=True) for name in shares]
    known = [[r.label, r.support, r.precision, r.recall, r.f1, r.base_recall] for r in rows]
    return Table(columns=columns, rows=[row[: len(columns)] for row in known])


def _mistakes_table(mistakes: Sequence[Prediction]) -> Table:
    columns = [
        Column(name="text", html=_text, kind="text"),
        Column(name="true label, its probability", html=_true_label),
        Column(name="predicted", html=label),
        Column(name="probability", text=percent_text, right=True),
    ]
    return Table(columns=columns, rows=[[p, p, p.predicted, p.probability] for p in mistakes])


def _text(found: Prediction) -> Markup:
    pair = "" if found.pair is None else Markup('<span class="pair">{}</span>').format(excerpt(found.pair, _LONGEST))
    return excerpt(found.text, _LONGEST) + pair


def _true_label(found: Prediction) -> Markup:
    probability = unbroken(percent_text(found.label_probability))
    return label(found.label) + Markup(' <span class="aside">{}</span>').format(probability)


def _pairs_table(pairs: Sequence[ConfusedPair]) -> Table:
    columns = [Column(name="label A", html=label), Column(name="label B", html=label)]
    columns += [Column(name=name, right=True) for name in ("A predicted as B", "B predicted as A", "both")]
    rows = [[pair.first, pair.second, pair.first_as_second, pair.second_as_first, pair.total] for pair in pairs]
    return Table(columns=columns, rows=rows)


def confusion(labels: Sequence[str], predictions: Sequence[Prediction], at_most: int) -> Confusion:
    """Return the confusion matrix of the `at_most` labels with the most mistakes, in the order of `labels`."""
    mistakes = Counter[str]()
    for p in predictions:
        if p.predicted != p.label:
            mistakes.update((p.label, p.predicted))
    worst = set(sorted(labels, key=lambda label: -mistakes[label])[:at_most])
    shown = [label for label in labels if label in worst]
    pairs = Counter((p.label, p.predicted) for p in predictions)
    support = Counter(p.label for p in predictions)
    counts = [[pairs[true, predicted] for predicted in shown] for true in shown]
    others = [support[true] - sum(row) for true, row in zip(shown, counts, strict=True)]
    return Confusion(labels=shown, counts=counts, others=others)


def scores_by_label(labels: Sequence[str], predictions: Sequence[Prediction]) -> list[LabelScores]:
    """Compute precision, recall and F1 of each label, and the recall that the base model had."""
    support = Counter(p.label for p in predictions)
    predicted = Counter(p.predicted for p in predictions)
    right = Counter(p.label for p in predictions if p.predicted == p.label)
    base_right = Counter(p.label for p in predictions if p.base_predicted == p.label)
    base_known = any(p.base_predicted is not None for p in predictions)
    return [
        LabelScores(
            label=label,
            support=support[label],
            precision=_ratio(right[label], predicted[label]),
            recall=_ratio(right[label], support[label]),
            f1=_ratio(2 * right[label], support[label] + predicted[label]),
            base_recall=_ratio(base_right[label], support[label]) if base_known else None,
        )
        for label in labels
    ]


def confused_pairs(predictions: Sequence[Prediction], at_most: int) -> list[ConfusedPair]:
    """Return the pairs of labels taken for each other most often, in either direction."""
    wrong = Counter((p.label, p.predicted) for p in predictions if p.predicted != p.label)
    pairs = [
        ConfusedPair(first=a, second=b, first_as_second=wrong[a, b], second_as_first=wrong[b, a])
        for a, b in wrong
        if (wrong[a, b], b) > (wrong[b, a], a)  # keeps one of the two directions: the more frequent
    ]
    return sorted(pairs, key=lambda pair: (-pair.total, pair.first, pair.second))[:at_most]


def worst_mistakes(predictions: Sequence[Prediction], at_most: int) -> list[Prediction]:
    """Return the wrong predictions made with the highest probability."""
    wrong = [p for p in predictions if p.predicted != p.label]
    return sorted(wrong, key=lambda p: -p.probability)[:at_most]


def gain_interval(
    floor: float, tuned: float, rows: int, predictions: Sequence[Prediction], answer: str | None = None
) -> Interval:
    """Return the 95 % interval of the gain over the base model, or over one `answer` to all rows; from the predictions
    if they are all there and include the base model's."""
    others = [p.base_predicted if answer is None else answer for p in predictions]
    if len(predictions) == rows and None not in others:
        return paired_gain_interval(predictions, others)
    return unpaired_gain_interval(floor, tuned, rows)


def paired_gain_interval(predictions: Sequence[Prediction], others: Sequence[str | None]) -> Interval:
    """Return the 95 % interval of the gain over other answers to the same rows (Bonett and Price 2012)."""
    pairs = list(zip(predictions, others, strict=True))
    won = sum(p.predicted == p.label != other for p, other in pairs)
    lost = sum(other == p.label != p.predicted for p, other in pairs)
    return paired_interval(won - lost, won + lost, len(predictions))


def naive_of(predictions: Sequence[Prediction]) -> NaiveBaseline | None:
    """Return the baseline of rows whose summary was written before summaries had one; None without rows."""
    if not predictions:
        return None
    ((answer, count),) = Counter(p.label for p in predictions).most_common(1)
    return NaiveBaseline(name=MOST_FREQUENT, answer=answer, scores={"accuracy": count / len(predictions)})


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
