"""The measurement of a run's forgetting: its task's baseline, timed, and what summary.json says of it."""

import time
from typing import Protocol

from torch import nn

from ..show.forgetting import Forgetting, Passages
from .baseline import Baseline
from .passages import GeneralText


class HasBaseline(Protocol):
    """A task, as far as it is measured."""

    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> Baseline: ...


class Measurement:
    """Begins with the base; `of` ends it with the tuned model."""

    def __init__(self, task: HasBaseline, base: nn.Module, text: GeneralText, tokens: int):
        began = time.perf_counter()
        self.source, self.there = text.source, len(text.measured)
        self.baseline = task.baseline(base, text, tokens)
        self.seconds = time.perf_counter() - began

    def of(self, model: nn.Module) -> Forgetting:
        began = time.perf_counter()
        found = self.baseline.compare(model)
        seconds = self.seconds + time.perf_counter() - began
        about: Passages = {"source": self.source, "seconds": round(seconds, 3), "passages_there": self.there}
        return {**found, **about} if found["measure"] == "loss" else {**found, **about}
