"""How far what was said of the runs on record was from what they took, each with the record as it stood before it."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .record import Taken, all_recorded, beside, kept, time_factor


@dataclass(frozen=True)
class Errors:
    """The errors of one quantity, as shares of what was said: above 0 where more was taken."""

    median: float
    """Without their signs."""
    worst: float

    @classmethod
    def between(cls, pairs: Sequence[tuple[float, float | None]]) -> Self | None:
        """Compare what was said with what was taken; None where nothing was."""
        found = [taken / said - 1 for said, taken in pairs if said and taken]
        return cls(statistics.median(map(abs, found)), max(found, key=abs)) if found else None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What the record shows of the plans on a machine."""

    runs: int
    time: Errors | None
    tensors: Errors | None
    process: Errors | None


def accuracy() -> Accuracy | None:
    """Return how far plans have been off on this machine; None if there is no record."""
    runs = all_recorded()
    if not runs:
        return None
    before: dict[tuple[str, str, int], list[Taken]] = defaultdict(list)
    seconds, processes = [], []
    for run in runs:
        earlier = before[run.device, run.dtype, run.threads]
        seconds.append((run.said_step_seconds * time_factor(earlier, run.model), run.step_seconds))
        if run.device == "cpu":
            processes.append((_process(run, earlier), run.process))
        earlier.append(run)
    return Accuracy(
        runs=len(runs),
        time=Errors.between(seconds),
        tensors=Errors.between([(run.said_tensors, run.tensors) for run in runs]),
        process=Errors.between(processes),
    )


def _process(run: Taken, earlier: Sequence[Taken]) -> float:
    tensors = run.said_tensors + run.beside_known
    return run.before + tensors + kept(run.said_tensors, run.weights) + beside(earlier, run.task, samples=run.samples)
