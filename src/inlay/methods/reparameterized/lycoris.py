"""What LoHa and LoKr share: a change of high rank made of small factors, their settings and their dropouts.

Hugging Face PEFT's `rank_dropout` is `dropout` here: it drops rows of the change, which are features of the output.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import Delta, WeightDelta
from ...formats.peft_config import PeftConfig
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import FACTOR, RANK, SHARE
from .on_linear import LinearFormat, OnLinear
from .patterns import check_patterns, first_fit

KNOWN = frozenset(
    {
        *("r", "alpha", "rank_dropout", "module_dropout", "rank_pattern", "alpha_pattern", "init_weights"),
        "use_effective_conv2d",  # of convolutions, which are no hosts here
    }
)
LycorisT = TypeVar("LycorisT", bound="Lycoris")


class LycorisFormat(LinearFormat[LycorisT]):
    def config(self, method: LycorisT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "r": method.rank,
            "alpha": method.alpha,
            "rank_dropout": method.dropout,
            "module_dropout": method.module_dropout,
            "rank_pattern": method.rank_pattern,
            "alpha_pattern": method.alpha_pattern,
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        return {
            "rank": config["r"],
            "alpha": config["alpha"],
            "dropout": config.get("rank_dropout", 0.0),
            "module_dropout": config.get("module_dropout", 0.0),
            "rank_pattern": config.get("rank_pattern") or {},
            "alpha_pattern": config.get("alpha_pattern") or {},
        }


@dataclass(frozen=True, kw_only=True)
class Lycoris(OnLinear):
    rank: Annotated[int, RANK] = 8
    """Width of the factors."""
    alpha: Annotated[float, FACTOR] = 8.0
    """Strength: the change is scaled by alpha / rank."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a feature of the change is dropped in training; the others are scaled up for it."""
    module_dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a layer's whole change is left out of a training step."""
    rank_pattern: Annotated[dict[str, int], RANK] = field(default_factory=dict)
    """Another rank for modules whose name ends with a pattern (a regular expression); the first match wins."""
    alpha_pattern: Annotated[dict[str, float], FACTOR] = field(default_factory=dict)
    """Another alpha for modules, likewise."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets)
        check_patterns((*self.rank_pattern, *self.alpha_pattern), names)
        for name in names:
            rank = first_fit(self.rank_pattern, name, self.rank)
            alpha = first_fit(self.alpha_pattern, name, self.alpha)
            delta = self.delta(sites.module(name), rank)
            delta.scale, delta.dropout, delta.module_dropout = alpha / rank, self.dropout, self.module_dropout
            yield name, delta

    @abstractmethod
    def delta(self, host: Host, rank: int) -> "Product":
        """Make the factors at one host, at their start."""


class Product(WeightDelta):
    """Subclasses say what the change is, and how it is applied to x without being formed."""

    scale: float
    dropout: float
    module_dropout: float

    def change(self) -> Tensor:
        """Return the change of the weight, (O, I)."""
        raise NotImplementedError

    def changed(self, x_BTI: Tensor) -> Tensor:
        """Compute x times the change, in the dtype of x."""
        raise NotImplementedError

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] + self.change()}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        change_BTO = self.changed(x_BTI)
        if self.training and self.dropout:
            change_BTO = change_BTO * F.dropout(h_BTO.new_ones(h_BTO.shape[-1]), self.dropout)
        if self.training and self.module_dropout:
            change_BTO = change_BTO * (torch.rand((), device=h_BTO.device) >= self.module_dropout).to(h_BTO.dtype)
        return h_BTO + change_BTO


def uniform(rows: int, columns: int, device: torch.device) -> nn.Parameter:
    """Draw from U(-1/sqrt(columns), 1/sqrt(columns)), as Hugging Face PEFT starts the factors that are not zero."""
    bound = 1 / math.sqrt(columns)
    return nn.Parameter(torch.empty(rows, columns, device=device).uniform_(-bound, bound))


def zeros(rows: int, columns: int, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.zeros(rows, columns, device=device))
