"""VeRA: h + b * (B (d * (A x))), with trained vectors b (O,) and d (R,).   https://arxiv.org/abs/2310.11454

A and B are random, frozen and shared by all layers: a layer with I inputs and O outputs uses the first I columns of A
and the first O rows of B. Both are U(-sqrt(6/n), sqrt(6/n)) with n their columns, drawn on the CPU from a seed, so that
they need not be saved. They are kept in the base's dtype, for they are frozen, and count as nothing that is trained. b
starts as zero, d as 0.1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import weights
from ...core.delta import Delta, WeightDelta
from ...core.sites import Sites
from ...core.weights import Host
from ...errors import SettingsError
from .on_linear import OnLinear


@dataclass(frozen=True, kw_only=True)
class VeRA(OnLinear):
    name, family, paper = "vera", "reparameterized", "https://arxiv.org/abs/2310.11454"
    summary = "two vectors per layer, which scale a random low-rank change that all layers share"
    learning_rate = 5e-3
    peft_type = "VERA"
    peft_reads = True
    peft_fields = frozenset(
        {
            *("r", "d_initial", "projection_prng_key", "save_projection", "vera_dropout"),
            *("fan_in_fan_out", "init_weights"),
        }
    )

    rank: int = 256
    """Width of the shared matrices. Choose it higher than LoRA's: it costs time, and almost no trained parameters."""
    d_initial: float = 0.1
    """Start of the vector between the two matrices."""
    dropout: float = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    seed: int = 0
    """Seed of the shared matrices (PEFT's projection_prng_key)."""
    save_projection: bool = True
    """Save the shared matrices too. Without them the file is small, but another version of torch may draw others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise SettingsError(f"method.rank is {self.rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.d_initial == 0:
            raise SettingsError("method.d_initial is 0, from where nothing learns; it must be another number")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets)
        hosts = {name: sites.model.get_submodule(name) for name in names}
        sizes = [weights.size(host) for host in hosts.values()]
        own = (p for _, module in sites.body() for p in module._parameters.values() if p is not None)
        dtype = next((p.dtype for p in own if p.is_floating_point()), torch.float32)
        shared = Projections(self, max(o for o, _ in sizes), max(i for _, i in sizes)).to(
            weights.device(hosts[names[0]]), dtype
        )
        for name, host in hosts.items():
            yield name, ScaledProjection(host, shared, self)

    def peft_key(self, host: str, parameter: str) -> str:
        if parameter.startswith("shared."):
            return f"base_model.{parameter.removeprefix('shared.')}"
        return super().peft_key(host, parameter)

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        return super().peft_config(sites, hosts) | {
            "r": self.rank,
            "d_initial": self.d_initial,
            "vera_dropout": self.dropout,
            "projection_prng_key": self.seed,
            "save_projection": self.save_projection,
            "fan_in_fan_out": any(weights.is_flipped(sites.model.get_submodule(host)) for host in hosts),
            "bias": "none",
        }

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != cls.peft_type:
            return None
        return cls(
            rank=config["r"],
            d_initial=config.get("d_initial", 0.1),
            dropout=config.get("vera_dropout", 0.0),
            seed=config.get("projection_prng_key", 0),
            save_projection=config.get("save_projection", True),
            targets=cls.peft_targets(config),
        )


class Projections(nn.Module):
    """A and B, once per adapter: every delta has this same module, since a shared tensor would part on `.to`."""

    vera_A: Tensor
    vera_B: Tensor

    def __init__(self, method: VeRA, most_outputs: int, most_inputs: int):
        super().__init__()
        generator = torch.Generator().manual_seed(method.seed)
        for name, shape in (("vera_A", (method.rank, most_inputs)), ("vera_B", (most_outputs, method.rank))):
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn, persistent=method.save_projection)


class ScaledProjection(WeightDelta):
    def __init__(self, host: Host, shared: Projections, method: VeRA):
        super().__init__()
        self.size = weights.size(host)
        self.shared, self.dropout = shared, method.dropout
        device = weights.device(host)
        self.vera_lambda_d = nn.Parameter(torch.full((method.rank,), method.d_initial, device=device))
        self.vera_lambda_b = nn.Parameter(torch.zeros(self.size[0], device=device))

    def projections(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's part of A (R, I) and B (O, R)."""
        out_features, in_features = self.size
        return self.shared.vera_A[:, :in_features].to(like), self.shared.vera_B[:out_features].to(like)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        a_RI, b_OR = self.projections(self.vera_lambda_b)
        return {"weight": params["weight"] + (self.vera_lambda_b[:, None] * b_OR * self.vera_lambda_d) @ a_RI}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.projections(x_BTI)
        z_BTR = F.linear(F.dropout(x_BTI, self.dropout, self.training), a_RI) * self.vera_lambda_d.to(x_BTI.dtype)
        return torch.addcmul(h_BTO, F.linear(z_BTR, b_OR), self.vera_lambda_b.to(h_BTO.dtype))
