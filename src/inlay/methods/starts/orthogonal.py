"""A and B are normal in orthogonal halves of the rank's space: neither is zero, but B A is."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import SettingsError
from ...models import weights
from ...models.weights import Host
from .start import Start


class Orthogonal(Start):
    """A start from which both matrices learn at once, while the model begins as its base."""

    name = "orthogonal"
    serves_experts = True
    finds_directions = False

    def check(self, ranks: Iterable[int], alphas: Iterable[float]) -> None:
        for rank in ranks:
            if rank % 2:
                raise SettingsError(f"method.rank is {rank}; the orthogonal initialization needs an even one")

    @torch.no_grad()
    def matrices(self, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        out_features, in_features = weights.size(host)
        return _pair(in_features, out_features, rank, weights.device(host))

    @torch.no_grad()
    def matrices_of_stack(
        self, count: int, out_features: int, in_features: int, rank: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        pairs = [_pair(in_features, out_features, rank, device) for _ in range(count)]
        return torch.stack([a_RI for a_RI, _ in pairs]), torch.stack([b_OR for _, b_OR in pairs])


def _pair(in_features: int, out_features: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
    q_RR = torch.linalg.qr(torch.randn(rank, rank, device=device)).Q
    a_RI = q_RR[0::2].T @ torch.randn(rank // 2, in_features, device=device) / 10
    b_OR = torch.randn(out_features, rank // 2, device=device) @ q_RR[1::2] / 10
    return a_RI, b_OR
