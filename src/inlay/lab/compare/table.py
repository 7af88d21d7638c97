"""What a comparison's runs come to: a row for each contender, a value with its spread for each quantity."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...formats.summary import Summary
from ...show.units import BYTES, COUNT, RATE, SECONDS, UNKNOWN, Unit, number
from ...tasks import TASKS
from ...tasks.metric import METRICS, Metric
from ...tasks.naive import MOST_FREQUENT, NaiveBaseline, naive_in
from ...training.journal import Event, first_event
from .sequence import Matrix, average_forgetting, backward_transfer
from .sequence import Sequence as TaskSequence
from .settings import Contender
from .trial import Trial

COSTS = ("trainable_parameters", "train_seconds", "peak_memory_bytes")  # keys of what is weighed against the score


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is measured of every run."""

    key: str
    name: str
    sign: int  # 1: more is better, -1: less
    unit: Unit
    read: Callable[[Summary], float | None]
    limits: tuple[float, float] = (0.0, math.inf)
    log: bool = False  # drawn on a logarithmic axis
    is_score: bool = False

    def text(self, value: float) -> str:
        """Write a value with its unit."""
        return self.unit.text(value)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The values of one quantity over the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; one value has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Finished:
    seed: int
    folder: Path
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    label: str
    family: str
    runs: tuple[Finished, ...]
    failures: tuple[tuple[int, str], ...]  # seed, reason
    spreads: dict[str, Spread]  # by the quantity's key; what no run has measured is not there

    def by_seed(self, quantity: Quantity) -> dict[int, float]:
        found = {run.seed: quantity.read(run.summary) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}

    def often(self, some: Sequence[object]) -> str:
        """Write ` in 2 of 3 runs`, behind what is true of `some`; nothing where there is one run alone."""
        return f" in {len(some)} of {len(self.runs)} runs" if len(self.runs) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class MethodTable:
    rows: tuple[MethodRow, ...]
    quantities: tuple[Quantity, ...]  # the first is the score
    split: str  # that the scores are of
    evaluated: int | None  # its rows
    naive: NaiveBaseline | None = None
    """What is scored there without reading the inputs."""

    @property
    def score(self) -> Quantity:
        return self.quantities[0]

    @property
    def finished(self) -> tuple[MethodRow, ...]:
        return tuple(row for row in self.rows if row.runs)


@dataclass(frozen=True, kw_only=True)
class SequenceRow:
    label: str
    way: str
    matrix: Matrix | None  # mean over the seeds; None if no seed has all stages
    backward_transfer: Spread | None
    forgetting: Spread | None
    reason: str | None


def make_table(contenders: Sequence[Contender], trials: Sequence[Trial], failures: dict[str, str]) -> MethodTable:
    """Make the table; `failures` has the reason of each trial that is not finished, by its name."""
    finished: dict[str, list[Finished]] = {c.label: [] for c in contenders}
    failed: dict[str, list[tuple[int, str]]] = {c.label: [] for c in contenders}
    for trial in trials:
        summary = trial.summary()
        if trial.name in failures or summary is None or summary.get("status") != "finished":
            failed[trial.label].append((trial.seed, failures.get(trial.name, "it was not run")))
        else:
            finished[trial.label].append(Finished(seed=trial.seed, folder=trial.folder, summary=summary))
    every = [run for runs in finished.values() for run in runs]
    summaries = [run.summary for run in every]
    split = "test" if summaries and all(s["metrics"]["test"] for s in summaries) else "valid"
    quantities = quantities_of(summaries, split)
    data = first_event(every[0].folder, "data") if every else {}
    return MethodTable(
        rows=tuple(_row(c, finished[c.label], failed[c.label], quantities) for c in contenders),
        quantities=quantities,
        split=split,
        evaluated=data.get("rows", {}).get(split),
        naive=naive_of(summaries, data, split),
    )


def quantities_of(summaries: Sequence[Summary], split: str) -> tuple[Quantity, ...]:
    """Return the scores, the one that the methods are judged by first, and what they cost."""
    where = "test" if split == "test" else "tuned"
    main = main_metric(summaries[0]) if summaries else METRICS[next(iter(TASKS.values())).main_score]
    there = {key for summary in summaries for key in summary["metrics"]["tuned"] or {}}
    others = [metric for metric in METRICS.values() if metric.name in there and metric is not main]
    return (*(_score_quantity(metric, where, split) for metric in (main, *others)), *_COSTS)


def naive_of(summaries: Sequence[Summary], data: Event, split: Literal["valid", "test"]) -> NaiveBaseline | None:
    """Return the baseline that the runs share; of runs that wrote none, the most frequent label that their event `data`
    tells of."""
    for summary in summaries:
        if (found := naive_in(summary, split)) is not None:
            return found
    share = data.get("majority", {}).get(split)
    return None if share is None else NaiveBaseline(name=MOST_FREQUENT, scores={"accuracy": share})


def main_metric(summary: Summary) -> Metric:
    """Return the metric by which adapters of the run's task are judged."""
    return METRICS[TASKS[summary["task"]].main_score]


def spread(values: Sequence[float | None]) -> Spread | None:
    there = tuple(value for value in values if value is not None and math.isfinite(value))
    return Spread(values=there) if there else None


def spread_text(found: Spread | None, text: Callable[[float], str]) -> str:
    """Write `94.8 ± 0.3 %`, with as many decimals in both; without a deviation where all values are one, a dash for
    nothing."""
    if found is None:
        return UNKNOWN
    mean = text(found.mean)
    if not found.deviation:
        return mean
    number, space, unit = mean.partition(" ")
    try:
        written = float(number.replace(",", "").replace("−", "-"))
    except ValueError:
        written = 0.0
    if not written or " " in unit:  # 1 min 23 s
        return f"{mean} ± {text(found.deviation)}"
    decimals = len(number.partition(".")[2])
    return f"{number} ± {found.deviation * written / found.mean:,.{decimals}f}{space}{unit}"  # both have one unit


def sequence_rows(sequences: Sequence[TaskSequence], failures: dict[str, str]) -> list[SequenceRow]:
    rows = []
    for label, way in dict.fromkeys((s.label, s.way) for s in sequences):
        of_seeds = [s for s in sequences if (s.label, s.way) == (label, way)]
        matrices = [m for s in of_seeds if (m := matrix_of(s, failures)) is not None]
        reasons = [failures[stage.name] for s in of_seeds for stage in s.stages if stage.name in failures]
        mean = _mean(matrices) if matrices else None
        rows.append(
            SequenceRow(
                label=label,
                way=way,
                matrix=mean,
                backward_transfer=spread([backward_transfer(m) for m in matrices]),
                forgetting=spread([average_forgetting(m) for m in matrices]),
                reason=reasons[0] if reasons else None,
            )
        )
    return rows


def _mean(matrices: Sequence[Matrix]) -> Matrix:
    return [[statistics.fmean(m[t][i] for m in matrices) for i in range(len(row))] for t, row in enumerate(matrices[0])]


def matrix_of(sequence: TaskSequence, failures: dict[str, str]) -> Matrix | None:
    """Return a_ti, higher is better, whatever the score is; None if a stage is missing."""
    matrix = []
    for stage in sequence.stages:
        summary = stage.summary()
        if stage.name in failures or summary is None or summary.get("status") != "finished":
            return None
        metric = main_metric(summary)
        own = summary["metrics"]["test"] or summary["metrics"]["tuned"]
        assert own is not None  # of a run that is finished
        scores = [*stage.scores_on_earlier(), own]
        if len(scores) != len(stage.earlier) + 1:
            return None
        matrix.append([metric.sign * each[metric.name] for each in scores])
    return matrix


def _row(
    contender: Contender, runs: list[Finished], failed: list[tuple[int, str]], quantities: Sequence[Quantity]
) -> MethodRow:
    spreads = {q.key: spread([q.read(run.summary) for run in runs]) for q in quantities}
    return MethodRow(
        label=contender.label,
        family=contender.family,
        runs=tuple(runs),
        failures=tuple(failed),
        spreads={key: found for key, found in spreads.items() if found is not None},
    )


def _score_quantity(metric: Metric, where: str, split: str) -> Quantity:
    def read(summary: Summary) -> float | None:
        return (summary["metrics"][where] or {}).get(metric.name)

    return Quantity(
        key=metric.name,
        name=f"{metric.label} ({split})",
        sign=metric.sign,
        unit=metric.unit,
        limits=metric.limits,
        read=read,
        is_score=True,
    )


def _forgetting(summary: Summary) -> float | None:
    return found["value"] if (found := summary.get("forgetting")) else None


_Cost = Literal["trainable_parameters", "adapter_bytes", "train_seconds", "peak_memory_bytes", "tokens_per_second"]


def _of(key: _Cost) -> Callable[[Summary], float | None]:
    return lambda summary: summary[key]


_COSTS = (
    Quantity(
        key="trainable_parameters",
        name="trained parameters",
        sign=-1,
        read=_of("trainable_parameters"),
        unit=COUNT,
        log=True,
    ),
    Quantity(
        key="adapter_bytes",
        name="adapter file",
        sign=-1,
        read=_of("adapter_bytes"),
        unit=BYTES,
        log=True,
    ),
    Quantity(
        key="train_seconds",
        name="training time",
        sign=-1,
        read=_of("train_seconds"),
        unit=SECONDS,
    ),
    Quantity(
        key="peak_memory_bytes",
        name="peak memory",
        sign=-1,
        read=_of("peak_memory_bytes"),
        unit=BYTES,
    ),
    Quantity(
        key="tokens_per_second",
        name="tokens a second",
        sign=1,
        read=_of("tokens_per_second"),
        unit=RATE,
    ),
    Quantity(
        key="forgetting",
        name="forgetting",
        sign=-1,
        unit=number(4),
        read=_forgetting,
        limits=(-math.inf, math.inf),  # a loss on general text can fall
    ),
)
