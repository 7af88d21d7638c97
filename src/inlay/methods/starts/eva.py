"""EVA: A starts as the directions in which a layer's inputs vary most, and layers share a budget of ranks by how
much of that variance each direction explains.   https://arxiv.org/abs/2410.07170
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from ...errors import DataError
from ...models.inputs import inputs_of
from .start import Pair, Start


class EVA(Start):
    """Kaiming's start until data is seen, and then one in the directions of the layers' inputs."""

    name = "eva"
    shares_ranks = True

    def from_data(
        self, model: nn.Module, pairs: Mapping[str, Pair], batches: Iterator[dict[str, Tensor]], rank_ratio: float
    ) -> None:
        """Give every host its first A and its rank. Raises DataError, having changed nothing, for too little data."""
        ranks = {host: len(pair.lora_A) for host, pair in pairs.items()}
        most = {host: round(rank * rank_ratio) for host, rank in ranks.items()}
        seen = inputs_of(model, list(pairs), max(most.values()), batches)
        for host, rank in ranks.items():
            found = len(seen[host].directions_KI) if host in seen else 0
            if found < rank:
                raise DataError(
                    f"method.initialization is eva, which starts {host} from {rank} directions of its inputs; the "
                    f"training data has {found}: give it more rows, or lower method.rank"
                )
        shares = {host: seen[host].shares()[: most[host]].tolist() for host in pairs}
        for host, rank in distribute(shares, sum(ranks.values())).items():
            pair = pairs[host]
            pair.lora_A = nn.Parameter(seen[host].directions_KI[:rank].clone())
            pair.lora_B = nn.Parameter(pair.lora_B.new_zeros(len(pair.lora_B), rank))


def distribute(shares: dict[str, list[float]], budget: int) -> dict[str, int]:
    """Choose ranks that add up to `budget`: the directions with the largest shares of their layers' variance, and the
    first of every layer, so that none is left without an adapter."""
    others = [(host, share) for host, values in shares.items() for share in values[1:]]
    others.sort(key=lambda direction: -direction[1])
    ranks = dict.fromkeys(shares, 1)
    for host, _ in others[: budget - len(shares)]:
        ranks[host] += 1
    return ranks
