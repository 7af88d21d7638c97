"""A low-rank change of a linear layer, an embedding or a convolution: W + s B A, with A (R, I) and B (O, R).

An embedding (V, D) becomes E + s (B A)' with A (R, V) zero and B (D, R) normal; a convolution's A is a convolution to R
channels and its B a 1x1 convolution.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import WeightDelta
from ...models import weights
from ...models.weights import Host
from . import lora_init
from .lora_init import Initialization

if TYPE_CHECKING:
    from ...attached.adapter import Adapter

CONVOLUTION: dict[type, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class LowRank(WeightDelta):
    """At a linear host; scaling and adding are part of the second matrix product, so h is read and written once."""

    start_A: Tensor | None
    start_B: Tensor | None

    def __init__(self, host: Host, rank: int, scale: float, dropout: float, initialization: Initialization = "kaiming"):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.resizable = initialization == "eva"
        a_RI, b_OR = lora_init.start(initialization, host, rank, scale)
        self.lora_A, self.lora_B = nn.Parameter(a_RI), nn.Parameter(b_OR)
        taken_away = initialization in lora_init.TAKEN_AWAY
        self.register_buffer("start_A", a_RI.clone() if taken_away else None)
        self.register_buffer("start_B", b_OR.clone() if taken_away else None)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A (R, I) and B (O, R): the change is `scale` times the second times the first."""
        if self.start_A is None or self.start_B is None:
            return self.lora_A, self.lora_B
        return _widened(self.lora_A, self.lora_B, self.start_A, self.start_B)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        a_RI, b_OR = self.matrices()
        return {"weight": (self.scale * b_OR, a_RI)}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        """Only for a delta that has no start of its own to take away."""
        self.lora_A.copy_(right)
        self.lora_B.copy_(left / self.scale)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        a_RI, b_OR = self.matrices()
        return {"weight": params["weight"] + self.scale * (b_OR @ a_RI)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.matrices()
        x_BTI = F.dropout(x_BTI, self.dropout, self.training)
        z_BTR = F.linear(x_BTI, a_RI.to(x_BTI.dtype))
        return plus_product(h_BTO, z_BTR, b_OR, self.scale)


def plus_product(h_BTO: Tensor, z_BTR: Tensor, b_OR: Tensor, scale: float = 1.0) -> Tensor:
    """h + s z B', with h read once and the result written once."""
    h_NO, z_NR = h_BTO.reshape(-1, h_BTO.shape[-1]), z_BTR.reshape(-1, z_BTR.shape[-1])
    return torch.addmm(h_NO, z_NR, b_OR.to(z_BTR.dtype).T, alpha=scale).view(h_BTO.shape)


class LowRankEmbedding(WeightDelta):
    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        device = weights.device(host)
        self.scale = scale  # a token's row is looked up, not multiplied: there is no input to drop
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, host.num_embeddings, device=device))
        self.lora_embedding_B = nn.Parameter(torch.randn(host.embedding_dim, rank, device=device))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {"weight": (self.scale * self.lora_embedding_A.T, self.lora_embedding_B.T)}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        self.lora_embedding_A.copy_(left.T / self.scale)
        self.lora_embedding_B.copy_(right.T)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] + self.scale * (self.lora_embedding_B @ self.lora_embedding_A).T}

    def edits_output(self, host: Host) -> bool:
        return type(host) is nn.Embedding  # a subclass may scale what it looks up

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        z_BTR = F.embedding(x_BTI, self.lora_embedding_A.T).to(h_BTO.dtype)
        return h_BTO + self.scale * F.linear(z_BTR, self.lora_embedding_B.to(h_BTO.dtype))


class LowRankConvolution(WeightDelta):
    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        out_channels, *kernel = host.weight.shape  # (O, I, *kernel)
        device = weights.device(host)
        self.scale, self.dropout = scale, dropout
        self.lora_A = nn.Parameter(torch.empty(rank, *kernel, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(out_channels, rank, *[1] * (len(kernel) - 1), device=device))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """I counts the entries of a kernel over all input channels."""
        return {"weight": (self.scale * self.lora_B.flatten(1), self.lora_A.flatten(1))}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        self.lora_A.copy_(right.view_as(self.lora_A))
        self.lora_B.copy_((left / self.scale).view_as(self.lora_B))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        change = self.lora_B.flatten(1) @ self.lora_A.flatten(1)
        return {"weight": params["weight"] + self.scale * change.view(params["weight"].shape)}

    def edits_output(self, host: Host) -> bool:
        return True

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        x = F.dropout(x_BTI, self.dropout, self.training)
        z = host._conv_forward(x, self.lora_A.to(x.dtype), None)  # with the host's stride, padding and dilation
        return h_BTO + self.scale * CONVOLUTION[type(host)](z, self.lora_B.to(z.dtype))


def low_rank(adapter: "Adapter") -> dict[str, LowRank]:
    """The adapter's linear hosts, without the heads."""
    return {host: delta for host, delta in adapter.deltas.items() if isinstance(delta, LowRank)}


def _widened(a_RI: Tensor, b_OR: Tensor, start_RI: Tensor, start_OR: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of twice the rank whose product is B A - B0 A0, written as (B - B0) A + B0 (A - A0).

    Small differences are taken here, in float32. In [B, -B0] [A; A0] they would be lost when the factors are rounded to
    16 bits, and the start would not be exactly the base.
    """
    return torch.cat([a_RI, a_RI - start_RI]), torch.cat([b_OR - start_OR, start_OR], dim=1)
