"""Methods that can give each layer a rank of its own, without a name of one."""

from collections.abc import Iterable, Mapping
from typing import Protocol, Self, runtime_checkable

from torch import nn

from ..core.method import Method
from ..models import weights
from ..show.units import counted
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


def wide_note(method: Method, hosts: Iterable[nn.Module]) -> str | None:
    """Say that the method's rank is larger than the layers; None if it is not, or there is no rank of this kind."""
    if not isinstance(method, Ranked):
        return None
    sides = [min(weights.size(host)) for host in hosts if weights.is_linear(host)]
    smaller = [side for side in sides if side < method.rank]
    if not smaller:
        return None
    return (
        f"rank {method.rank:,} is more than {counted(len(smaller), 'layer')} can use, whose changes have rank "
        f"{max(smaller):,} at most; what is beyond that takes memory and time for nothing, so give a smaller rank"
    )
