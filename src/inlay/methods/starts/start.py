"""A start: where the two matrices of a low-rank change begin at a host with the weight W (O, I): A (R, I), B (O, R)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ...errors import TargetError
from ...models import experts, weights
from ...models.weights import Host


class Pair(Protocol):
    """What has the two matrices of one host: its change is `scale` B A."""

    scale: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter


class Start:
    """One way to begin. As it is, A is U(-1/sqrt(I), 1/sqrt(I)) and B zero, so that the model begins as its base."""

    name: ClassVar[str]
    is_taken_away: ClassVar[bool] = False  # s B0 A0 is not zero, and the adapter takes it away
    moves_base: ClassVar[bool] = False  # s B0 A0 is not zero, and the model begins as another one than its base
    shares_ranks: ClassVar[bool] = False  # the data tells which layer gets how much of the ranks
    serves_experts: ClassVar[bool] = False  # experts that share one parameter can begin so
    finds_directions: ClassVar[bool] = True  # as many as the rank, in what a layer has

    def draw(self, a: Tensor) -> Tensor:
        """Fill A, or several; its last two dimensions are R and I."""
        bound = 1 / math.sqrt(a.shape[-1])
        return a.uniform_(-bound, bound)

    def check(self, ranks: Iterable[int], alphas: Iterable[float]) -> None:
        """Raise SettingsError unless these ranks and alphas can have such a start."""

    def check_hosts(self, hosts: Mapping[str, Host]) -> None:
        """Raise SettingsError if none of the hosts needs such a start."""

    def check_host(self, name: str, host: Host, rank: int) -> None:
        """Raise TargetError if the host called `name` cannot begin so."""
        if experts.matrices(host):
            if self.serves_experts:
                return
            raise TargetError(
                f"method.initialization is {self.name}, which experts that share one parameter cannot have, such as "
                f"{name}; choose kaiming, gaussian or orthogonal, or targets without them, such as attention"
            )
        if not weights.is_linear(host):
            raise TargetError(
                f"method.initialization is {self.name}, which only linear layers can have; "
                f"{name} is a {type(host).__name__}"
            )
        if self.finds_directions and rank > min(weights.size(host)):
            raise TargetError(
                f"method.rank is {rank}, and {self.name} cannot find as many directions in the "
                f"{' x '.join(map(str, weights.size(host)))} weight of {name}; lower it, if only in method.rank_pattern"
            )

    @torch.no_grad()
    def matrices(self, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """Make A and B in float32, on the host's device; the host is only read."""
        device = weights.device(host)
        out_features, in_features = weights.size(host)
        a_RI = self.draw(torch.empty(rank, in_features, device=device))
        return a_RI, torch.zeros(out_features, rank, device=device)

    @torch.no_grad()
    def matrices_of_stack(
        self, count: int, out_features: int, in_features: int, rank: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Make A (N, R, I) and B (N, O, R) of `count` weights, for a start that does not look at them."""
        a_NRI = self.draw(torch.empty(count, rank, in_features, device=device))
        return a_NRI, torch.zeros(count, out_features, rank, device=device)

    def from_base(self, name: str, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        """Make again what PEFT has taken out of the base's weight. Raises CheckpointError where it did otherwise."""
        raise NotImplementedError(f"{self.name} takes nothing out of the base")

    def from_data(
        self, model: nn.Module, pairs: Mapping[str, Pair], batches: Iterator[dict[str, Tensor]], rank_ratio: float
    ) -> None:
        """Begin anew once data is there. A layer may get `rank_ratio` times its rank if the start shares them out."""
