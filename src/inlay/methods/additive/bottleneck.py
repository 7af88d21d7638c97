"""Bottleneck adapters: h + up(relu(down(.))) set into each transformer block.

Pfeiffer: one per block, after the feed-forward.   https://arxiv.org/abs/2005.00247

With f the feed-forward's output and x its residual, a block ends with f + x (pre-LN) or LN(f + x) (post-LN). The
adapter reads that end, u, and its output joins the sum: f + x + adapter(u), before the block's own norm where there is
one. The up-projection starts at zero, so the adapted model starts as the base.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import weights
from ...core.delta import Args, Delta, Kwargs
from ...core.method import Method
from ...core.sites import Sites
from ...core.slot import first, with_first
from ...core.weights import Host
from ...errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(Method):
    name, family, paper = "pfeiffer", "additive", "https://arxiv.org/abs/2005.00247"
    summary = "a two-layer bottleneck after the feed-forward of each block"
    learning_rate = 1e-3
    peft_type = "INLAY_PFEIFFER"

    reduction_factor: float = 16.0
    """Width of the model divided by the width of the bottleneck."""

    def __post_init__(self) -> None:
        if self.reduction_factor <= 0:
            raise SettingsError(f"method.reduction_factor is {self.reduction_factor}; it must be above 0")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        ends = list(sites.block_ends())
        width = sites.model.config.hidden_size
        size = max(1, round(width / self.reduction_factor))
        for name, host in ends:
            delta = AfterNorm if host not in sites.blocks.values() else AfterBlock
            yield name, delta(width, size, weights.device(host))


class Bottleneck(Delta):
    def __init__(self, width: int, size: int, device: torch.device):
        super().__init__()
        self.down = nn.Linear(width, size, device=device, dtype=torch.float32)
        self.up = nn.Linear(size, width, device=device, dtype=torch.float32)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def change(self, u_BTD: Tensor) -> Tensor:
        z_BTR = torch.relu(_linear(u_BTD, self.down))
        return _linear(z_BTR, self.up)

    def edits_rows(self, host: Host) -> bool:
        return True


class AfterBlock(Bottleneck):
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        h_BTD = first(result)
        return with_first(result, h_BTD + self.change(h_BTD))


class AfterNorm(Bottleneck):
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        return host.forward(args[0] + self.change(result))


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
