"""Methods that can give each layer a rank of its own, without a name of one."""

from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

from ..core.method import Method
from .reparameterized.lora import LoRA


@runtime_checkable
class Ranked(Protocol):
    """A method whose changes have a rank, layer by layer."""

    rank: int
    targets: tuple[str, ...]

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Keep all but the ranks, which are those of the modules named."""
        ...


def product_of(ranks: Mapping[str, int]) -> Method:
    """Make the method that adds to each module named a product of two matrices of its rank, and nothing else."""
    return LoRA.of_ranks(ranks)
