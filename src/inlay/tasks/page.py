"""What a run's page shows of its task, as plain data: figures with the base's beside them, a verdict, a section."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from ..formats.summary import GainOverBase, Summary, WentBack, kept_start
from ..show.page import excerpt, templates
from ..show.table import Column, Table
from ..show.units import percent_text, text_or_unknown
from .metric import METRICS
from .naive import NaiveBaseline, naive_in, warning_of
from .never_given import never_given_text

PredictionLine = Mapping[str, Any]  # of predictions.jsonl, which every task writes and reads in a form of its own

_SAMPLES_IN_SIGHT = 8
_LONGEST = 600  # characters of a text that a page shows


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A figure at the top of a page."""

    name: str
    value: str
    before: str | None = None
    """The value of the baseline, or of the base model."""
    details: list[str]
    more: tuple[str, str] | None = None
    """A heading and a text that is shown below it when that is opened."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judgement on a run, in sentences, as far as the figures allow one."""

    kind: Literal["better", "unclear", "worse", "unknown"]
    sentence: str
    unclear: str | None = None
    """What a screen says behind the scores if the kind is that, such as `no clear gain`."""
    notes: list[str]
    """What a reader must know before trusting the sentence."""


@dataclass(frozen=True, kw_only=True)
class TaskPage:
    """A task's part of a run's page."""

    tiles: list[Tile]
    verdict: Verdict
    section: str
    """HTML: what was predicted."""
    naive: NaiveBaseline | None = None
    """What is scored without reading the inputs, for the plot of the main score."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A row of predictions.jsonl, as any task's can be shown."""

    prompt: str
    wanted: str | None
    answer: str
    base_answer: str | None
    pair: str | None = None


def samples_section(split: str, rows: Sequence[Said], lacks: str) -> str:
    """Write the first predictions of a split, the very first in sight, or that the page `lacks` them."""
    first, more = _samples_table(rows[:_SAMPLES_IN_SIGHT]), _samples_table(rows[_SAMPLES_IN_SIGHT:])
    known = {"split": split, "samples": first, "more_samples": more, "lacks": lacks}
    return templates("tasks").get_template("samples.html.j2").render(known)


def _samples_table(rows: Iterable[Said]) -> Table:
    """Return what was asked beside what was expected, and what the two models wrote."""
    columns = [Column(name=name, html=_excerpt, kind=name) for name in ("prompt", "expected", "base", "tuned")]
    written = [(row.prompt, row.wanted, row.base_answer, row.answer) for row in rows]
    return Table(columns=columns, rows=[[p, wanted, _given(base), _given(tuned)] for p, wanted, base, tuned in written])


def _given(answer: str | None) -> str | None:
    return "(nothing)" if answer == "" else answer


def _excerpt(text: str) -> Markup:
    return excerpt(text, _LONGEST)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The scores that a summary holds, and what they are of."""

    status: str
    base: Mapping[str, float] = field(default_factory=dict)
    base_is_random: bool = True
    """Whether a classifier's base has a new head; summaries of earlier versions do not say."""
    start: Mapping[str, float] = field(default_factory=dict)
    """The scores of a new head that was fitted before the first step."""
    tuned: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    test_rows: int | None = None
    split: str = "valid"
    gain: GainOverBase | None = None
    """The tuned model's over the base, by the main score; None where that is not known."""
    naive: NaiveBaseline | None = None
    """What is scored there without reading the inputs."""
    warning: str | None = None
    """A sentence where the tuned model is no better than that."""
    went_back: Sequence[WentBack] = ()
    """The times that the training collapsed and went back."""
    kept_start: bool = False
    """Whether no step was better than a new head that was fitted before the first."""
    never_given: Mapping[str, int] = field(default_factory=dict)
    """The rows by their labels, of labels that no row is given though several have them."""

    @classmethod
    def from_summary(cls, summary: Summary, naive: NaiveBaseline | None = None) -> "Judged":
        """Read a summary; `naive` is for one that was written before summaries had a baseline."""
        found = summary.get("metrics") or {}
        scores = {name: found.get(name) or {} for name in ("base", "start", "tuned", "test")}
        return cls(
            status=summary["status"],
            rows=found.get("rows", 0),
            test_rows=found.get("test_rows"),
            split=found.get("split", "valid"),
            base_is_random=found.get("base_is_random", True),
            gain=found.get("gain"),
            naive=naive_in(summary, "valid") or naive,
            warning=warning_of(summary),
            went_back=summary.get("went_back") or (),
            kept_start=kept_start(summary),
            never_given=summary.get("never_given") or {},
            **scores,
        )

    @property
    def without_scores(self) -> Verdict | None:
        """The verdict on a run that ended before it had scores to compare."""
        if self.base and self.tuned:
            return None
        ended = {"failed": "failed", "interrupted": "was interrupted"}.get(self.status, "ended")
        sentence = f"The run {ended} before it had scores to compare, so there is nothing to judge."
        return Verdict(kind="unknown", sentence=sentence, notes=[])

    def notes(self, *own: str, score: str) -> list[str]:
        """Return the task's `own` notes with those on every run: how far it came, and what its best step was chosen
        by."""
        label = METRICS[score].label
        chosen = (
            f"The best checkpoint was chosen on the {self.split} split, so its figures there are slightly optimistic"
        )
        there = "there was no test split to check them on"
        checked = there if self.status == "finished" else "no test split has been scored to check them on"
        warned = [capitalized(self.warning)] if self.warning else []
        if self.test:
            figure = text_or_unknown(lambda value: METRICS[score].text_on(value, self.test_rows), self.test[score])
            where = "on the test split, which no choice was made on,"
            checked = f"{where} {'the loss' if score == 'loss' else label} is {figure}"
        unfinished = f"The run is {self.status}: these are the figures of its best checkpoint so far."
        collapses = [_went_back(each) for each in self.went_back]
        missed = never_given_text(self.never_given, f"no row of {self.split}")
        warned += [f"{capitalized(missed)}."] if missed else []
        first = [*([unfinished] if self.status != "finished" else []), *warned, *collapses]
        return [*first, *own, f"{chosen}; {checked}."]

    def verdict(self, score: str) -> Verdict:
        """Say which way a score went, for a task that has no more to say."""
        if (none := self.without_scores) is not None:
            return none
        metric, base, tuned = METRICS[score], self.base[score], self.tuned[score]
        better = metric.sign * tuned > metric.sign * base
        sentence = (
            f"{capitalized(metric.label)} {'rose' if tuned > base else 'fell'} from {metric.text(base)} to "
            f"{metric.text(tuned)} on the {self.rows} rows of the {self.split} split."
        )
        return Verdict(kind="better" if better else "worse", sentence=sentence, notes=self.notes(score=score))

    def tiles(self, always: Iterable[str], details: Mapping[str, list[str]]) -> list[Tile]:
        """Return a tile for each metric that is there, and for those that are to be shown `always`."""
        wanted = {*always, *self.tuned}
        return [self._tile(name, details.get(name)) for name in METRICS if name in wanted]

    def _tile(self, name: str, details: list[str] | None) -> Tile:
        metric = METRICS[name]
        floor = dict(self.base) | (self.naive.scores if self.naive and self.naive.answer is not None else {})
        before = text_or_unknown(metric.text, floor[name]) if name in floor and name in self.tuned else None
        copied = self.naive.scores.get(name) if self.naive and self.naive.answer is None else None
        details = details if details is not None else [metric.meaning] if metric.meaning else []
        if copied is not None and copied != self.base.get(name):
            details = [*details, f"{metric.text(copied)} for the prompt, copied"]
        return Tile(
            name=capitalized(metric.label),
            before=before,
            value=text_or_unknown(metric.text, self.tuned.get(name)),
            details=details,
        )


def capitalized(text: str) -> str:
    """Begin a sentence or a heading with `text`; names that have capitals of their own, such as chrF, stay."""
    first = text.split(" ")[0].split("-")[0]
    return text[:1].upper() + text[1:] if first.islower() else text


def _went_back(event: WentBack) -> str:
    to = f"step {event['to']}" if event["to"] else "the start"
    share = "half" if event["share"] == 0.5 else f"{percent_text(event['share'])} of"
    return (
        f"The training collapsed: after step {event['step']}, {event['why']}. It went back to {to} and on with {share} "
        "the learning rate. A lower --learning-rate from the start may do better."
    )
