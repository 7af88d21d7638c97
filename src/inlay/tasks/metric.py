"""Metrics: of each its name, which way is better, how it is shown, and the function that computes it.

Whatever a run, a report, a comparison or a screen says of a score comes from this table. A new metric is an entry here,
or one of another package, given to `inlay.register`. A task's outcomes (outcomes.py) are scored by every metric that
takes their kind, so scores are a plain dict, by the names of metrics and in the table's order.

F1 is scikit-learn's; BLEU (https://aclanthology.org/P02-1040) and chrF (https://aclanthology.org/W15-3049) are
sacrebleu's, of the whole corpus, from 0 to 100; ROUGE-L (https://aclanthology.org/W04-1013) is rouge-score's F1 with
stemming, the mean over the rows, each with the reference that fits best. Slots are data/slots.py's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from statistics import mean
from typing import Any

import torch

from ..batches.objective import Scores
from ..data.slots import slot_accuracy
from ..formats.summary import GainOverBase
from ..registry import Registry
from ..show.units import PERCENT, Unit, counted, number, shares_text, signed
from ..stats import Interval, wilson_interval
from .outcomes import LabelProbabilities, TokenLosses, WrittenTexts


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good outcomes are."""

    name: str
    """The key in events and summaries."""
    label: str
    """The name on screens and pages."""
    of: tuple[type, ...]
    """The kinds of outcomes that have it."""
    function: Callable[[Any], float | None]
    """Computes it from an outcome; None where this one has no such number."""
    higher_is_better: bool = True
    unit: Unit = number(3)
    """How it is written, and whether differences of it are points."""
    meaning: str = ""
    """A phrase for pages, of what the number is."""
    difference_in: str = ""
    """The unit of differences, where they are no points."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """The least and the most that it can be."""
    is_share_of_rows: bool = False
    """Whether it is the share of the rows that are right, whose interval follows from their number."""

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1

    @property
    def difference_unit(self) -> str:
        """What stands behind a difference: ` points`, ` nats`, or nothing."""
        unit = "points" if self.unit.is_share else self.difference_in
        return f" {unit}" if unit else ""

    def text(self, value: float) -> str:
        """Write a value with its unit."""
        return self.unit.text(value)

    def text_on(self, value: float, rows: int | None, *, tell_rows: bool = True) -> str:
        """Write `83.2 % (95 % 79.7 to 86.2, 500 rows)`, with the interval of a share of these rows, or without
        `tell_rows` `83.2 % (79.7 to 86.2)`; another metric, or one of rows whose number is not known, as it is."""
        interval = self.interval(value, rows)
        if interval is None or rows is None:
            return self.text(value)
        sure = shares_text(interval)
        told = f"95 % {sure}, {counted(rows, 'row')}" if tell_rows else sure
        return f"{self.text(value)} ({told})"

    def change(self, gain: GainOverBase) -> str:
        """Write the 95 % interval of how far this metric changed, which a gain may lower: `-1.039 to -0.901`."""
        return " to ".join(signed(each, 3) for each in sorted(self.sign * gain[end] for end in ("low", "high")))

    def interval(self, value: float, rows: int | None) -> Interval | None:
        """Return where the true value of one on so many rows lies, at 95 %; None where that is not known."""
        return wilson_interval(value, rows) if self.is_share_of_rows and rows and math.isfinite(value) else None


def scores_of(outcome: object) -> Scores:
    """Score an outcome by every metric that takes its kind."""
    found = {metric.name: metric.function(outcome) for metric in METRICS.values() if isinstance(outcome, metric.of)}
    return {name: value for name, value in found.items() if value is not None}


def in_order(scores: Mapping[str, float]) -> Scores:
    """Return the scores in the table's order; what is in no table here comes last."""
    return {name: scores[name] for name in METRICS if name in scores} | dict(scores)


def better_than(scores: Scores, other: Scores | None, by: str) -> bool:
    """Tell whether a run keeps an adapter with these scores rather than the one with the others.

    The metric `by` decides; among equals the lower loss. Scores whose loss is not finite are never better, and any that
    are finite are better than those.
    """
    if not (math.isfinite(scores["loss"]) and other is not None and math.isfinite(other["loss"])):
        return math.isfinite(scores["loss"])
    sign = METRICS[by].sign
    return (sign * scores[by], -scores["loss"]) > (sign * other[by], -other["loss"])


def scores_from_json(values: object, by: str) -> Scores:
    """Return the scores that a file holds, where a number beyond any other is null. Raises ValueError if they are no
    scores of a task whose main one is `by`."""
    if not isinstance(values, dict) or not {"loss", by} <= values.keys():
        raise ValueError(f"{str(values)[:200]} has no loss or no {by}")
    if wrong := [name for name, value in values.items() if type(value) not in (int, float, type(None))]:
        raise ValueError(f"{wrong[0]} is {values[wrong[0]]!r}, which is no number")
    return {name: math.inf if value is None else value for name, value in values.items()}


def score_text(scores: Mapping[str, Any]) -> str:
    """Write every score among these values, such as an event's, in one line."""
    return "  ".join(f"{METRICS[name].label} {METRICS[name].text(scores[name])}" for name in METRICS if name in scores)


def _accuracy(outcome: LabelProbabilities) -> float:
    return (outcome.predicted_N == outcome.labels_N).float().mean().item()


def _macro_f1(outcome: LabelProbabilities) -> float:
    """Average the labels' F1, of those that are right for a row or were given to one."""
    wanted_L, given_L, both_L = (
        torch.bincount(labels_N, minlength=outcome.log_probabilities_NL.shape[1]).double()
        for labels_N in (
            outcome.labels_N,
            outcome.predicted_N,
            outcome.labels_N[outcome.predicted_N == outcome.labels_N],
        )
    )
    there_L = wanted_L + given_L > 0
    return (2 * both_L / (wanted_L + given_L))[there_L].mean().item()


def _perplexity(outcome: TokenLosses) -> float:
    return torch.tensor(outcome.loss).exp().item()


def _slots(outcome: WrittenTexts) -> float | None:
    shares = [slot_accuracy(prompt, text) for prompt, text in zip(outcome.prompts, outcome.texts, strict=True)]
    filled = [share == 1 for share in shares if share is not None]
    return mean(filled) if filled else None


def _exact_match(outcome: WrittenTexts) -> float:
    return mean(text in wanted for text, wanted in zip(outcome.texts, outcome.references, strict=True))


def _bleu(outcome: WrittenTexts) -> float:
    from sacrebleu.metrics.bleu import BLEU

    streams: Any = outcome.streams
    return BLEU().corpus_score(outcome.texts, streams).score


def _chrf(outcome: WrittenTexts) -> float:
    from sacrebleu.metrics.chrf import CHRF

    streams: Any = outcome.streams
    return CHRF().corpus_score(outcome.texts, streams).score


def _rouge_l(outcome: WrittenTexts) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return mean(
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in of_row)
        for text, of_row in zip(outcome.texts, outcome.references, strict=True)
    )


METRICS = Registry[Metric](
    "metric",
    group="inlay.metrics",
    of=Metric,
    own=(
        Metric(
            name="accuracy",
            label="accuracy",
            of=(LabelProbabilities,),
            function=_accuracy,
            limits=(0, 1),
            unit=PERCENT,
            is_share_of_rows=True,
        ),
        Metric(
            name="macro_f1",
            label="macro-F1",
            of=(LabelProbabilities,),
            function=_macro_f1,
            limits=(0, 1),
            meaning="mean over the labels that occur, as label or as prediction",
        ),
        Metric(
            name="loss",
            label="loss",
            of=(LabelProbabilities, TokenLosses),
            function=attrgetter("loss"),
            limits=(0, math.inf),
            higher_is_better=False,
            meaning="mean cross-entropy",
            difference_in="nats",
        ),
        Metric(
            name="perplexity",
            label="perplexity",
            of=(TokenLosses,),
            function=_perplexity,
            limits=(1, math.inf),
            higher_is_better=False,
            unit=number(2),
            meaning="exp of the loss",
        ),
        Metric(
            name="slots",
            label="slots filled",
            of=(WrittenTexts,),
            function=_slots,
            limits=(0, 1),
            unit=PERCENT,
            meaning="texts that have every value of their prompt",
        ),
        Metric(
            name="exact_match",
            label="exact match",
            of=(WrittenTexts,),
            function=_exact_match,
            limits=(0, 1),
            unit=PERCENT,
            meaning="texts that are a reference word for word",
        ),
        Metric(
            name="bleu",
            label="BLEU",
            of=(WrittenTexts,),
            function=_bleu,
            limits=(0, 100),
            unit=number(1),
            meaning="of 100, against all references",
        ),
        Metric(
            name="chrf",
            label="chrF",
            of=(WrittenTexts,),
            function=_chrf,
            limits=(0, 100),
            unit=number(1),
            meaning="of 100, characters against all references",
        ),
        Metric(
            name="rouge_l",
            label="ROUGE-L",
            of=(WrittenTexts,),
            function=_rouge_l,
            limits=(0, 1),
            meaning="mean F1 with the best reference",
        ),
    ),
)
