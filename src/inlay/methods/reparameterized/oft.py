"""OFT.   https://arxiv.org/abs/2306.07280, and https://arxiv.org/abs/2506.19847 for rotating x instead of W"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from ...core.delta import Delta
from ...core.method import Rates
from ...errors import CheckpointError, TargetError
from ...formats.peft_config import PeftConfig
from ...models import weights
from ...models.sites import Sites
from ...ranges import COUNT, SHARE, Range
from .on_linear import LinearFormat, OnLinear
from .rotation import Rotation


class OFTFormat(LinearFormat["OFT"]):
    def config(self, method: "OFT", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "r": method.blocks or 0,
            "oft_block_size": 0 if method.blocks else method.block_size,
            "block_share": method.block_share,
            "use_cayley_neumann": method.neumann,
            "num_cayley_neumann_terms": method.neumann_terms,
            "module_dropout": method.dropout,
            "coft": False,
            "bias": "none",
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        neumann, version = config.get("use_cayley_neumann", True), str(config.get("peft_version") or "0")
        if neumann and tuple(int(n) for n in version.partition("@")[0].split(".")[:2]) < (0, 18):
            raise CheckpointError(
                f"adapter_config.json: use_cayley_neumann with peft_version {config.get('peft_version')}; before 0.18 "
                "that was another series, so its outputs would be wrong. Train the adapter again"
            )
        size, terms = config["oft_block_size"], config.get("num_cayley_neumann_terms", 5)
        return {
            **({"block_size": size} if size else {}),
            **(
                {"neumann_terms": 4 if terms == 3 else terms} if neumann else {}
            ),  # PEFT's has no term fewer than with 4
            "blocks": config.get("r") or None,
            "block_share": config.get("block_share", False),
            "neumann": neumann,
            "dropout": config.get("module_dropout", 0.0),
        }


@dataclass(frozen=True, kw_only=True)
class OFT(OnLinear):
    """Rotates each layer's input, block by block, before the frozen weight.

             ┌──────┐    ╔════╗
             │ x_1  │───▶║ R1 ║───┐
             ├──────┤    ╠════╣   │    ┌───────┐
        x =  │ x_2  │───▶║ R2 ║───┼───▶│ W O×I │──▶ y
             ├──────┤    ╠════╣   │    └───────┘
             │ ...  │───▶║ .. ║───┘
             └──────┘    ╚════╝

        W' = W R^T        R orthogonal, in blocks: R = (I - Q)(I + Q)^-1
        Q = -Q^T is trained and starts at zero, where nothing turns

    When: Where the base should keep its character: a rotation leaves the lengths of inputs and the angles between the
    rows of each weight as they are. The paper adapts image generators with it. Not where features must become stronger
    or weaker, which no rotation does.

    Cost: A step takes two thirds of full fine-tuning's arithmetic, a product of block_size for each input, and one
    small inverse for each block. Merged, it costs nothing at inference.
    """

    name, family, paper = "oft", "reparameterized", "https://arxiv.org/abs/2306.07280"
    summary = "a rotation of each layer's input, block by block"
    learning_rate = Rates(reading=8e-4, writing=4e-3)
    format = OFTFormat(
        peft_type="OFT",
        read_by_peft=True,
        names={"oft_R": "oft_R.weight"},
        known=frozenset(
            {
                *("r", "oft_block_size", "block_share", "module_dropout"),
                *("use_cayley_neumann", "num_cayley_neumann_terms"),
                *("init_weights", "fan_in_fan_out"),
                "eps",  # of coft, which is refused
            }
        ),
    )

    block_size: Annotated[int, Range(2, 65_536)] = 32
    """Inputs that are rotated among each other; the nearest size that divides a layer's inputs is taken."""
    blocks: Annotated[int | None, COUNT] = None
    """A number of blocks for each layer, likewise the nearest, in place of their size."""
    block_share: bool = False
    """Use one rotation for all blocks of a layer."""
    neumann: bool = False
    """Compute the rotation by a series (PEFT's use_cayley_neumann): cheaper, and exact for small turns only."""
    neumann_terms: Annotated[int, Range(4, 1_000)] = 5
    """Terms of that series, one power each."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a block's rotation is left out in training."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for name in sites.find(self.targets):
            host = sites.module(name)
            in_features = weights.size(host)[1]
            size = in_features // _nearest_divisor(in_features, self.blocks) if self.blocks else self.block_size
            size = _nearest_divisor(in_features, size)
            if size == 1:
                wanted = f"blocks {self.blocks}" if self.blocks else f"block_size {self.block_size}"
                raise TargetError(
                    f"{name} has {in_features} inputs, which method.{wanted} would cut into blocks of 1, where nothing "
                    "turns; choose another or leave it out of method.targets"
                )
            terms = self.neumann_terms if self.neumann else 0
            yield name, Rotation(host, size, self.block_share, terms, self.dropout)


def _nearest_divisor(number: int, wanted: int) -> int:
    """Adjust a size as Hugging Face PEFT does: of two that are as near, the smaller."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wanted), d))
