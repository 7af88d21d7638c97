"""EVA: LoRA's A starts as the directions in which a layer's inputs vary most, and layers share a budget of ranks by how
much of that variance each direction explains.   https://arxiv.org/abs/2410.07170
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...errors import DataError
from ...models.inputs import inputs_of

if TYPE_CHECKING:
    from .low_rank import LowRank


def initialize(
    model: nn.Module, deltas: dict[str, "LowRank"], batches: Iterator[dict[str, Tensor]], rank_ratio: float
) -> None:
    """Give every delta its first A and its rank. Raises DataError, having changed nothing, for too little data."""
    ranks = {host: len(delta.lora_A) for host, delta in deltas.items()}
    most = {host: round(rank * rank_ratio) for host, rank in ranks.items()}
    seen = inputs_of(model, list(deltas), max(most.values()), batches)
    for host, rank in ranks.items():
        found = len(seen[host].directions_KI) if host in seen else 0
        if found < rank:
            raise DataError(
                f"method.initialization is eva, which starts {host} from {rank} directions of its inputs; the training "
                f"data has {found}: give it more rows, or lower method.rank"
            )
    shares = {host: seen[host].shares()[: most[host]].tolist() for host in deltas}
    for host, rank in distribute(shares, sum(ranks.values())).items():
        delta = deltas[host]
        delta.lora_A = nn.Parameter(seen[host].directions_KI[:rank].clone())
        delta.lora_B = nn.Parameter(delta.lora_B.new_zeros(len(delta.lora_B), rank))


def distribute(shares: dict[str, list[float]], budget: int) -> dict[str, int]:
    """Ranks that add up to `budget`: the directions with the largest shares of their layers' variance, and the first of
    every layer, so that none is left without an adapter."""
    others = [(host, share) for host, values in shares.items() for share in values[1:]]
    others.sort(key=lambda direction: -direction[1])
    ranks = dict.fromkeys(shares, 1)
    for host, _ in others[: budget - len(shares)]:
        ranks[host] += 1
    return ranks
