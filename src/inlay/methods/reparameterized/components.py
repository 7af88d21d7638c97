"""A change that is a sum of single-rank components, W + s Σ e_i b_i a_i', some of which are dropped while it trains."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...core.attachment import Attachment
from ...models import weights
from ...models.weights import Host
from .low_rank import LowRank


class Components(LowRank):
    """LoRA's factors with a coefficient for each component. What is not `kept` counts for nothing, whatever its value.

    The coefficient is part of the first factor, so a component costs on a forward pass what one of LoRA's does.
    """

    kept: Tensor

    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__(host, rank, 1.0, dropout)
        device = weights.device(host)
        self.component_scale = scale
        self.coefficient = nn.Parameter(torch.zeros(rank, 1, device=device))
        self.register_buffer("kept", torch.ones(rank, 1, dtype=torch.bool, device=device))
        self.averages: dict[str, Tensor] = {}  # what a method's scores remember between steps
        self.settled = False  # no more components will be dropped

    def average(self, name: str, now: Tensor, beta: float) -> Tensor:
        """Update the running average under this name, begun at zero, with `now` as its newest value."""
        if name not in self.averages:
            self.averages[name] = torch.zeros_like(now)
        return self.averages[name].lerp_(now, 1 - beta)

    def training_state(self) -> dict[str, Tensor]:
        return self.averages | {"settled": torch.tensor(self.settled)}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.averages = dict(state)
        self.settled = bool(self.averages.pop("settled"))

    def strength(self) -> Tensor:
        return self.component_scale * self.coefficient * self.kept

    def matrices(self) -> tuple[Tensor, Tensor]:
        return self.strength() * self.lora_A, self.lora_B


def components(adapter: Attachment) -> Iterator[tuple[str, Components]]:
    """Yield the adapter's hosts of this kind: all but the heads."""
    for host, delta in adapter.deltas.items():
        if isinstance(delta, Components):
            yield host, delta
