"""Starts from the weight itself.

Their published forms take the start out of the base, W - s B0 A0. Here the base keeps its bits and the adapter takes
its own start away: W + s (B A - B0 A0), which is W exactly as long as nothing is trained.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from ...models import weights
from ...models.weights import Host
from .start import Start


class TakenAway(Start):
    """A start whose product the adapter takes away."""

    is_taken_away = True

    @abstractmethod
    def of_weight(self, weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """Make A and B from the weight in float32."""

    @torch.no_grad()
    def matrices(self, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        if weights.device(host).type == "meta":
            return super().matrices(host, rank, scale)
        return self.of_weight(weights.read(host)["weight"].float(), rank, scale)

    @torch.no_grad()
    def from_base(self, name: str, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        return self.of_weight(weights.read(host)["weight"].float(), rank, scale)
