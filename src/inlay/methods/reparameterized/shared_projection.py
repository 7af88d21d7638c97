"""A random low-rank change of two frozen matrices that all layers share, b * (B (d * (A x))), with b and d trained.

A layer with I inputs and O outputs uses the first I columns of A and the first O rows of B. Both are U(-sqrt(6/n),
sqrt(6/n)) with n their columns, drawn on the CPU from a seed, so that they need not be saved. They are kept in the
base's dtype, for they are frozen, and count as nothing that is trained. b starts as zero.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import WeightDelta
from ...models import weights
from ...models.weights import Host


class Projections(nn.Module):
    """A and B, once per adapter: every delta has this same module, since a shared tensor would part on `.to`.

    It is a child of the first delta only, so that no state dict holds a tensor twice.
    """

    vera_A: Tensor
    vera_B: Tensor

    def __init__(self, rank: int, most_outputs: int, most_inputs: int, seed: int, persistent: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("vera_A", (rank, most_inputs)), ("vera_B", (most_outputs, rank))):
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn, persistent=persistent)


class ScaledProjection(WeightDelta):
    shared: Projections

    def __init__(self, host: Host, shared: Projections, owns_shared: bool, d_initial: float, dropout: float):
        super().__init__()
        self.size, self.dropout = weights.size(host), dropout
        if owns_shared:
            self.shared = shared
        else:
            self.__dict__["shared"] = shared
        device = weights.device(host)
        self.vera_lambda_d = nn.Parameter(torch.full((len(shared.vera_A),), d_initial, device=device))
        self.vera_lambda_b = nn.Parameter(torch.zeros(self.size[0], device=device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if "shared" in self._modules:
            self.shared._apply(fn)  # once more: frozen, they have the base's dtype, be it narrower
        return self

    def projections(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return this layer's part of A (R, I) and B (O, R)."""
        out_features, in_features = self.size
        return self.shared.vera_A[:, :in_features].to(like), self.shared.vera_B[:out_features].to(like)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        a_RI, b_OR = self.projections(self.vera_lambda_b)
        return {"weight": (self.vera_lambda_b[:, None] * b_OR * self.vera_lambda_d, a_RI)}

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        left_OR, right_RI = self.factors()["weight"]
        return {"weight": params["weight"] + left_OR @ right_RI}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.projections(x_BTI)
        z_BTR = F.linear(F.dropout(x_BTI, self.dropout, self.training), a_RI) * self.vera_lambda_d.to(x_BTI.dtype)
        return torch.addcmul(h_BTO, F.linear(z_BTR, b_OR), self.vera_lambda_b.to(h_BTO.dtype))
