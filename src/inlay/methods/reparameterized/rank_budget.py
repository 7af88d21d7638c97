"""A budget of single-rank components that shrinks while they train, shared by all the layers that a method adapts.

A run has three phases: all components, then fewer and fewer, then those that are left. In the second, those with the
smallest scores of all layers are set to zero at every interval and may grow again until the next; its last step decides
which ones are gone. From then on they have no part in the function, so an optimizer's momentum cannot bring them back.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...core.attachment import Attachment
from ...core.delta import Delta
from ...errors import SettingsError
from ...models.sites import Sites
from ...ranges import COUNT, RANK, SHARE
from .components import Components, components
from .on_linear import OnLinear


@dataclass(frozen=True, kw_only=True)
class RankBudget(OnLinear):
    schedule: ClassVar[Callable[[float, int, int], int]]  # (share of the second phase, components at its start and end)

    target_rank: Annotated[int, RANK] = 16
    """Components that each layer has at the end, on average."""
    initial_rank: Annotated[int, RANK] = 24
    """Components that each layer has at the start."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    initial_phase: Annotated[float, SHARE] = 0.15
    """Share of the steps, at the start, in which no component is dropped."""
    final_phase: Annotated[float, SHARE] = 0.5
    """Share of the steps, at the end, in which the components that are left train on."""
    interval: Annotated[int, COUNT] = 10
    """Steps between two reductions of the budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_rank < self.target_rank:
            raise SettingsError(
                f"method.initial_rank is {self.initial_rank}; it must be at least {self.target_rank} "
                "(method.target_rank)"
            )
        if self.initial_phase + self.final_phase >= 1:
            raise SettingsError(
                f"method.initial_phase is {self.initial_phase}, method.final_phase {self.final_phase}; "
                "they must be together below 1"
            )

    @abstractmethod
    def component_scale(self) -> float:
        """Return the factor s of every component; it stays when others are dropped."""

    @abstractmethod
    def start(self, delta: Components) -> None:
        """Give the factors their first values; the coefficients are zero."""

    @abstractmethod
    def score(self, delta: Components) -> Tensor:
        """Score how much each component matters, (R), after this step, smoothed over the steps so far."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for name in sites.find(self.targets):
            host = sites.module(name)
            delta = Components(host, self.initial_rank, self.component_scale(), self.dropout)
            self.start(delta)
            yield name, delta

    def phases(self, total_steps: int) -> tuple[int, int]:
        """Return the last steps of the first and of the second phase; the second has at least one."""
        return int(self.initial_phase * total_steps), total_steps - int(self.final_phase * total_steps)

    @torch.no_grad()
    def after_step(self, adapter: Attachment, step: int, total_steps: int) -> None:
        start, end = self.phases(total_steps)
        if step > end:
            return
        deltas = [delta for _, delta in components(adapter)]
        scores = [self.score(delta) for delta in deltas]
        if step == end or (step > start and (step - start) % self.interval == 0):
            initial, target = len(deltas) * self.initial_rank, len(deltas) * self.target_rank
            budget = type(self).schedule((step - start) / (end - start), initial, target)
            keep_best(deltas, scores, budget, for_good=step == end)

    def may_be_best(self, step: int, total_steps: int) -> bool:
        return step >= self.phases(total_steps)[1]

    def findings(self, adapter: Attachment) -> dict[str, dict[str, int]]:
        return {"ranks": {host: int(delta.kept.sum()) for host, delta in components(adapter)}}


def fast_first(progress: float, initial: int, target: int) -> int:
    return int((initial - target) * (1 - progress) ** 3 + target)


def slow_first(progress: float, initial: int, target: int) -> int:
    return initial - int((initial - target) * progress**3)


def keep_best(deltas: list[Components], scores: list[Tensor], budget: int, for_good: bool) -> None:
    """Set all to zero but the `budget` components with the highest scores: exactly so many, even if some are equal."""
    all_scores = torch.cat([score.cpu() for score in scores])
    keep = torch.zeros_like(all_scores, dtype=torch.bool)
    keep[torch.argsort(all_scores, descending=True, stable=True)[:budget]] = True
    for delta, kept in zip(deltas, keep.split([len(score) for score in scores]), strict=True):
        kept = kept.to(delta.kept.device)[:, None]
        delta.coefficient.mul_(kept)
        if for_good:
            delta.kept.copy_(kept)
            delta.averages.clear()
            delta.settled = True
