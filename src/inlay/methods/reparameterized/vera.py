"""VeRA.   https://arxiv.org/abs/2310.11454"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch

from ...core.delta import Delta
from ...core.method import Rates
from ...errors import SettingsError
from ...formats.peft_config import PeftConfig
from ...models import weights
from ...models.sites import Sites
from ...ranges import FACTOR, RANK, SHARE, Range
from .on_linear import LinearFormat, OnLinear
from .shared_projection import Projections, ScaledProjection


class VeRAFormat(LinearFormat["VeRA"]):
    def key(self, host: str, parameter: str) -> str:
        if parameter.startswith("shared."):
            return f"base_model.{parameter.removeprefix('shared.')}"
        return super().key(host, parameter)

    def config(self, method: "VeRA", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "r": method.rank,
            "d_initial": method.d_initial,
            "vera_dropout": method.dropout,
            "projection_prng_key": method.seed,
            "save_projection": method.save_projection,
            "fan_in_fan_out": any(weights.is_flipped(sites.module(host)) for host in hosts),
            "bias": "none",
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        return {
            "rank": config["r"],
            "d_initial": config.get("d_initial", 0.1),
            "dropout": config.get("vera_dropout", 0.0),
            "seed": config.get("projection_prng_key", 0),
            "save_projection": config.get("save_projection", True),
        }


@dataclass(frozen=True, kw_only=True)
class VeRA(OnLinear):
    """A random low-rank change that all layers share; each layer trains two vectors, which scale its parts.

                 ┌────────────────────────────────────┐
             ┌──▶│               W O×I                │────▶ + ──▶ y
             │   └────────────────────────────────────┘      ▲
        x ───┤   ┌───────┐ ╔═════╗  ┌───────┐ ╔═════╗        │
             └──▶│ A R×I │─╢ × d ╟─▶│ B O×R │─╢ × b ╟────────┘
                 └───────┘ ╚═════╝  └───────┘ ╚═════╝
                  A and B are random, and the same in all layers

        y = W x + b * (B (d * (A x)))        * is entry by entry; b starts at zero

    When: For very many adapters of one base: the paper reports LoRA's quality with far fewer trained numbers. Not to
    save time: the rank must be far higher than LoRA's, and each layer works through all of it.

    Cost: Next to nothing for the optimizer to keep, and one pair of frozen matrices for the whole model. A step takes
    what LoRA's of the same, high rank would, less the gradients of A and B. The file holds A and B too unless
    save_projection is off. Merged, it costs nothing at inference.
    """

    name, family, paper = "vera", "reparameterized", "https://arxiv.org/abs/2310.11454"
    summary = "two vectors per layer, which scale a random low-rank change that all layers share"
    learning_rate = Rates(reading=2.5e-2, writing=7e-2)
    format = VeRAFormat(
        peft_type="VERA",
        read_by_peft=True,
        known=frozenset(
            {
                *("r", "d_initial", "projection_prng_key", "save_projection", "vera_dropout"),
                *("fan_in_fan_out", "init_weights"),
            }
        ),
    )

    rank: Annotated[int, RANK] = 256
    """Width of the shared matrices. Choose it higher than LoRA's: it costs time, and almost no trained parameters."""
    d_initial: Annotated[float, FACTOR] = 0.1
    """Start of the vector between the two matrices."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of the shared matrices (PEFT's projection_prng_key)."""
    save_projection: bool = True
    """Save the shared matrices too. Without them the file is small, but another version of torch may draw others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_initial == 0:
            raise SettingsError("method.d_initial is 0, from where nothing learns; it must be another number")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets)
        hosts = {name: sites.module(name) for name in names}
        sizes = [weights.size(host) for host in hosts.values()]
        own = (p for _, module in sites.body() for p in module._parameters.values() if p is not None)
        dtype = next((p.dtype for p in own if p.is_floating_point()), torch.float32)
        most_outputs, most_inputs = max(o for o, _ in sizes), max(i for _, i in sizes)
        shared = Projections(self.rank, most_outputs, most_inputs, self.seed, self.save_projection)
        shared = shared.to(weights.device(hosts[names[0]]), dtype)
        for name, host in hosts.items():
            yield name, ScaledProjection(host, shared, name == names[0], self.d_initial, self.dropout)
