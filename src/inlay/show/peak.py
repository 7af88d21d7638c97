"""When a run's memory was at its highest, in words."""

from collections.abc import Sequence
from typing import TypedDict

_STAGES = {
    "load": "while the base was loaded",
    "base": "in the evaluation of the base",
    "attach": "while the method was set up",
    "trial": "before the first step, in the trial of the largest batch",
    "training": "in the training, after step {}",
    "evaluation": "in the evaluation after step {}",
    "end": "after the training, in the last evaluations",
}
CLOSE = 1.01
"""Times which a peak is no other one: what a stage adds to it, or the process between its last and its summary."""


class RaisedPeak(TypedDict):
    """The run's highest memory so far, as one of its stages raised it."""

    stage: str
    """`load`, `base` (its evaluation), `attach`, `trial` (a step on the largest batch, before the first), `training`,
    `evaluation`, or `end`."""
    step: int
    """The step after which the stage began."""
    bytes: int


def peak_text(raised: Sequence[RaisedPeak] | None, peak: int | None) -> str | None:
    """Say when a peak of so many bytes was reached; None if it is not known, or was in another process."""
    if not raised or peak is None or peak > CLOSE * raised[-1]["bytes"]:
        return None
    last = raised[-1]
    if last["stage"] == "training" and not last["step"]:
        return "in the training, before its first evaluation"
    return _STAGES[last["stage"]].format(last["step"])
