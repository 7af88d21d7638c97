"""How long a training still takes, from its first step on: by its plan at first, and by its own steps as they come.

The first step of a process waits for what is made once, such as kernels, so it tells nothing of the others. An
evaluation is no part of a step: those that are still to come are counted by themselves.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

PLANNED = 5
"""Steps as which the plan counts beside those that were measured. Evaluations are all alike, and the one that was timed
for the plan was the model's first pass: once another is measured, the plan says nothing of them."""
ENOUGH = 10  # measured steps, from which on the time is no rough one


@dataclass
class _Measured:
    """Times of the same kind, of which one was planned."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count, self.seconds = self.count + 1, self.seconds + seconds

    def mean(self, planned: float, weight: int) -> float:
        """Return the mean, in which the planned time counts as so many."""
        return (weight * planned + self.seconds) / (weight + self.count)


@dataclass
class TimeLeft:
    """The time that is left of a training with so many steps and evaluations; its clock runs from when it is made."""

    steps: int
    evaluate_after: frozenset[int]
    step_seconds: float | None = None  # as planned; None: there is no plan
    evaluation_seconds: float = 0.0
    clock: Callable[[], float] = time.perf_counter
    seconds: float = 0.0
    """The time from the end of the last step to that of the last evaluation."""
    _plain: _Measured = field(default_factory=_Measured)  # from one step's end to the next one's
    _with_evaluation: _Measured = field(default_factory=_Measured)  # the same, with an evaluation between
    _is_first: bool = True

    def __post_init__(self) -> None:
        self._last = self.clock()

    @property
    def is_rough(self) -> bool:
        """Whether it is mostly the plan that tells it."""
        return self._plain.count < ENOUGH

    def after(self, step: int) -> None:
        """Take note of a step's end, which is now."""
        now = self.clock()
        took, self._last = now - self._last, now
        planned = took if self.step_seconds is None else self.step_seconds
        if self._is_first:
            self.step_seconds, self._is_first = planned, False
        else:
            (self._with_evaluation if step - 1 in self.evaluate_after else self._plain).add(took)
        a_step = self._plain.mean(planned, PLANNED)
        known = self._with_evaluation.count > 0
        an_evaluation = self._with_evaluation.mean(self.evaluation_seconds + a_step, 0 if known else 1) - a_step
        to_come = sum(after >= step for after in self.evaluate_after)
        self.seconds = a_step * (self.steps - step) + max(0.0, an_evaluation) * to_come
