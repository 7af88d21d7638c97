"""Bottleneck adapters: a change up(f(down(.))) set into each transformer block.

Houlsby: two per block, after self-attention and after the feed-forward; f is GELU.   https://arxiv.org/abs/1902.00751
Pfeiffer: one per block, after the feed-forward; f is ReLU.                           https://arxiv.org/abs/2005.00247
Parallel: one per block, beside the feed-forward; f is ReLU.                          https://arxiv.org/abs/2110.04366

Houlsby's reads what the sub-layer's last projection gives, y, and makes it y + adapter(y), before the residual is added
and before any norm (a dropout that follows the projection falls on both). It trains every normalization as well.

With f the feed-forward's output and x its residual, a block ends with f + x (pre-LN) or LN(f + x) (post-LN). Pfeiffer's
reads that end, u, and its output joins the sum: f + x + adapter(u), before the block's own norm where there is one.

The parallel one reads the feed-forward's own input z, behind a pre-LN: FFN(z) + scale * adapter(z).

The up-projection starts at zero, so the adapted model starts as the base.
"""

import math
from collections.abc import Callable, Iterator
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
from ..selective.norm import NormTuning


@dataclass(frozen=True, kw_only=True)
class Houlsby(Method):
    name, family, paper = "houlsby", "additive", "https://arxiv.org/abs/1902.00751"
    summary = "a two-layer bottleneck after the attention and one after the feed-forward of each block; all norms"
    learning_rate = 1e-3
    peft_type = "INLAY_HOULSBY"

    size: int = 64
    """Width of the bottleneck."""
    train_norms: bool = True
    """Train the weight and bias of every normalization too, as the paper does."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"method.size is {self.size}; it must be at least 1")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for name in [*sites.attention_ends(), *(end for _, end in sites.feedforwards())]:
            host = sites.model.get_submodule(name)
            width = weights.size(host)[0]
            yield name, AfterHost(width, self.size, weights.device(host), _normal(0.01), F.gelu)
        if self.train_norms:
            yield from NormTuning().place(sites)


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(Method):
    name, family, paper = "pfeiffer", "additive", "https://arxiv.org/abs/2005.00247"
    summary = "a two-layer bottleneck after the feed-forward of each block"
    learning_rate = 1e-3
    peft_type = "INLAY_PFEIFFER"

    reduction_factor: float = 16.0
    """Width of the model divided by the width of the bottleneck."""

    def __post_init__(self) -> None:
        _check_factor(self.reduction_factor)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        ends = list(sites.block_ends())
        width = sites.model.config.hidden_size
        for name, host in ends:
            delta = AfterNorm if host not in sites.blocks.values() else AfterHost
            yield name, delta(width, _size(width, self.reduction_factor), weights.device(host), _normal(0.02))


@dataclass(frozen=True, kw_only=True)
class Parallel(Method):
    name, family, paper = "parallel", "additive", "https://arxiv.org/abs/2110.04366"
    summary = "a two-layer bottleneck beside the feed-forward of each block"
    learning_rate = 5e-4
    peft_type = "INLAY_PARALLEL"

    reduction_factor: float = 2.0
    """Width of the model divided by the width of the bottleneck."""
    scale: float = 4.0
    """Factor of the bottleneck's output."""

    def __post_init__(self) -> None:
        _check_factor(self.reduction_factor)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for start, end in sites.feedforwards():
            host = sites.model.get_submodule(start)
            width = weights.size(host)[1]
            reader = BesideInput(width, _size(width, self.reduction_factor), weights.device(host), _uniform)
            yield start, reader
            yield end, BesideOutput(reader, self.scale)


class Bottleneck(Delta):
    """`start` fills the down-projection's weight."""

    def __init__(
        self,
        width: int,
        size: int,
        device: torch.device,
        start: Callable[[Tensor], Any],
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
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        h_BTD = first(result)
        return with_first(result, h_BTD + self.change(h_BTD))


class AfterNorm(Bottleneck):
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        return host.forward(args[0] + self.change(result))


class BesideInput(Bottleneck):
    """At the first layer of a feed-forward: it keeps what the layer reads until the last one has run."""

    x_BTD: Tensor | None = None

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        self.x_BTD = args[0]
        return result


class BesideOutput(Delta):
    """At the last layer of the feed-forward: it adds the change that the first layer's input makes."""

    def __init__(self, reader: BesideInput, scale: float):
        super().__init__()
        self.reader = (reader,)  # in a tuple, so that it is no child of two modules
        self.scale = scale

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        (reader,) = self.reader
        assert reader.x_BTD is not None
        change_BTD = reader.change(reader.x_BTD)
        reader.x_BTD = None
        return result + self.scale * change_BTD

    def edits_rows(self, host: Host) -> bool:
        return True


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _normal(std: float) -> Callable[[Tensor], Any]:
    return lambda weight: nn.init.normal_(weight, std=std)


def _uniform(weight: Tensor) -> None:
    """Within 1 / sqrt(inputs), as LoRA starts its first factor."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def _size(width: int, reduction_factor: float) -> int:
    return max(1, round(width / reduction_factor))


def _check_factor(reduction_factor: float) -> None:
    if reduction_factor <= 0:
        raise SettingsError(f"method.reduction_factor is {reduction_factor}; it must be above 0")
