"""How far a training is: what it has come to, and the steps that it can go back to or keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..formats.event import Event
from ..loss_scale import LossScale
from ..tasks.metric import Scores
from .guard import Guard, Safe
from .shrinking import Shrunk


@dataclass(frozen=True)
class Progress:
    """How far a training is. It is replaced whole after each step and each evaluation."""

    step: int = 0
    evaluated: int = 0  # the step after which the last evaluation was
    best: Scores | None = None
    best_step: int = 0
    best_state: Mapping[str, Tensor] = field(default_factory=dict)  # the parameters after that step, on the CPU
    without_better: int = 0  # evaluations since then
    tokens: int = 0  # trained on, without padding
    seconds: float = 0.0  # of training, without evaluations
    guard: Guard = field(default_factory=Guard)
    safe: Safe | None = None  # what it goes back to if it collapses
    start: Safe | None = None  # what it goes back to instead if that does not last, for as long as that can be
    scale: LossScale = field(default_factory=LossScale)  # of the loss in the next backward pass
    shrunk: tuple[Shrunk, ...] = ()  # each time that a step ran out of memory
    inside: Safe | None = None  # the best step that forgets no more than was asked, if that was

    def has_told(self, event: Event) -> bool:
        """Tell whether an event of the run came before this; from here on it is told anew."""
        match event:
            case {"event": "step", "step": int(step)}:
                return step <= self.step
            case {"event": "evaluate" | "spent", "step": int(step)}:
                return step <= self.evaluated
            case {"event": "back", "step": int(step)}:
                return any(each.step == step for each in self.guard.returns)
            case {"event": "shrink", "step": int(step)}:
                return any(each.step == step for each in self.shrunk)
            case {"event": "forgetting" | "budget" | "finished"} | {"event": "note", "step": _}:  # of the end
                return False
            case _:
                return True
