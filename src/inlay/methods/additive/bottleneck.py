"""A bottleneck: up(f(down(.))), two thin layers with an activation between them, which starts at zero."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import Args, Delta, Kwargs
from ...models.results import Result, first, with_first
from ...models.weights import Host


class Bottleneck(Delta):
    """`start` fills the down-projection's weight."""

    def __init__(
        self,
        width: int,
        size: int,
        device: torch.device,
        start: Callable[[Tensor], object],
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        self.activation = activation
        self.down = nn.Linear(width, size, device=device, dtype=torch.float32)
        self.up = nn.Linear(size, width, device=device, dtype=torch.float32)
        start(self.down.weight)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def change(self, u_BTD: Tensor) -> Tensor:
        z_BTR = self.activation(_linear(u_BTD, self.down))
        return _linear(z_BTR, self.up)

    def edits_rows(self, host: Host) -> bool:
        return True


class AfterHost(Bottleneck):
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        h_BTD = first(result)
        return with_first(result, h_BTD + self.change(h_BTD))


def normal(std: float) -> Callable[[Tensor], object]:
    return lambda weight: nn.init.normal_(weight, std=std)


def uniform(weight: Tensor) -> None:
    """Draw within 1 / sqrt(inputs), as LoRA starts its first factor."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def size_of(width: int, reduction_factor: float) -> int:
    return max(1, round(width / reduction_factor))


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
