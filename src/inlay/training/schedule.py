"""How long a run is, when it evaluates, and the learning rate of each step: fixed before it starts."""

import math
from dataclasses import dataclass

from ..batches.batch import batch_count
from ..core.method import Method
from ..methods.peak_rate import LABELS, peak_rate, warmup_steps
from ..tasks.task import Task
from .guard import Guard
from .settings import RunSettings

FINAL_SHARE = 0.1  # of the peak learning rate, at the end of the cosine
_UNTOUCHED = Guard()


@dataclass(frozen=True)
class Plan:
    """How long a run is, and how fast it learns."""

    epochs: float
    steps: int
    steps_per_epoch: int
    learning_rate: float  # at its peak
    warmup_steps: int  # in which it rises to that
    evaluate_after: frozenset[int]  # steps
    rate_reason: str | None = None  # None: the rate was asked for
    own_share: float = 1.0  # the method's own rate for the run as a share of the one that was asked for


def make_plan(rows: int, settings: RunSettings[Method], task: Task) -> Plan:
    """Return the number of steps, the learning rate, and when to evaluate; the last step always is."""
    per_epoch = batch_count(rows, settings.batch_size)
    epochs = planned_epochs(rows, settings)
    steps = max(1, round(epochs * per_epoch))
    every = per_epoch / settings.evaluations_per_epoch
    after = {max(1, round(i * every)) for i in range(1, int(steps / every) + 1)} | {steps}
    asked, rising = settings.learning_rate, warmup_steps(settings.method, settings.warmup, steps)
    labels = LABELS if task.writes else len(task.labels)
    peak = peak_rate(settings.method, writes=task.writes, width=task.base.width, steps=steps, labels=labels)
    if asked is not None:
        return Plan(epochs, steps, per_epoch, asked, rising, frozenset(after), own_share=peak.value / asked)
    return Plan(epochs, steps, per_epoch, peak.value, rising, frozenset(after), peak.reason)


def planned_epochs(rows: int, settings: RunSettings[Method]) -> float:
    """Return what is asked for; else the method's own, or as many as have 100 steps if that is more; at most 10."""
    if settings.epochs is not None:
        return settings.epochs
    return min(10, max(settings.method.epochs, math.ceil(100 / batch_count(rows, settings.batch_size))))


def learning_rate_share(step: int, plan: Plan, guard: Guard = _UNTOUCHED) -> float:
    """Return the share of its peak that the rate has after `step` steps: it rises, anew after a return, and falls as a
    cosine; a guard that went back has taken its part off."""
    rising = plan.warmup_steps
    risen = (step + 1 - guard.since) / rising
    if step < rising:
        return guard.share * risen
    progress = (step - rising) / max(1, plan.steps - rising)
    return guard.share * min(1.0, risen) * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2)
