"""When a run's memory was at its highest: the stages of the run that raised its peak."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..show.peak import CLOSE, RaisedPeak


@dataclass
class Stages:
    """The stage that a run is in, and those that raised the peak of its memory."""

    peak: Callable[[], int]  # so far, in bytes
    stage: str = "load"
    step: int = 0  # after which the stage began
    raised: list[RaisedPeak] = field(default_factory=list)

    def enter(self, stage: str, step: int = 0) -> None:
        """End the stage that the run is in, and begin another."""
        self.look()
        self.stage, self.step = stage, step

    def look(self) -> None:
        """Take note of the peak if this stage has raised it by more than a hundredth; of stages that come again, the
        last time counts.
        """
        found = self.peak()
        if found > CLOSE * max((each["bytes"] for each in self.raised), default=0):
            others = [each for each in self.raised if each["stage"] != self.stage]
            self.raised = [*others, {"stage": self.stage, "step": self.step, "bytes": found}]
