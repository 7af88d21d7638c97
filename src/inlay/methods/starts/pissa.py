"""s B A is the best approximation of W of rank R.   https://arxiv.org/abs/2404.02948"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import SettingsError
from ...models import weights
from ...models.weights import Host
from ...singular import top_singular
from .taken_away import TakenAway


class PiSSA(TakenAway):
    """A start in the weight's largest singular directions."""

    name = "pissa"

    def check(self, ranks: Iterable[int], alphas: Iterable[float]) -> None:
        check_positive(self.name, alphas)

    def of_weight(self, weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        return best_approximation(weight_OI, rank, scale)

    @torch.no_grad()
    def from_base(self, name: str, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        # From the whole decomposition: its product is exact, which the product of an approximate one is only as far as
        # the values that it settles on are apart.
        u, values, v = torch.linalg.svd(weights.read(host)["weight"].float(), full_matrices=False)
        root_R = (values[:rank] / scale).sqrt()
        return root_R[:, None] * v[:rank], u[:, :rank] * root_R


def best_approximation(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Make A (R, I) and B (O, R), equally long, with which `scale` B A is the best approximation of its rank."""
    u_OR, values_R, v_RI = top_singular(weight_OI, rank)
    root_R = (values_R / scale).sqrt()
    return root_R[:, None] * v_RI, u_OR * root_R


def check_positive(name: str, alphas: Iterable[float]) -> None:
    """Raise SettingsError unless all alphas are above zero."""
    for alpha in alphas:
        if alpha <= 0:
            raise SettingsError(f"method.alpha is {alpha}; {name} needs it above 0")
