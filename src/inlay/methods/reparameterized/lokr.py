"""LoKr.   https://arxiv.org/abs/2309.14859 (LyCORIS), https://arxiv.org/abs/2212.10650 (KronA)

The product itself is never formed: with x laid out as X (M, N), the change is W1 X W2', (L, K), and the thin side of W2
is multiplied first. W1 starts as zero.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.method import Rates
from ...errors import SettingsError
from ...formats.peft_config import PeftConfig
from ...models import weights
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import Range
from .lycoris import KNOWN, Lycoris, LycorisFormat, Product, uniform, zeros


class LoKrFormat(LycorisFormat["LoKr"]):
    def config(self, method: "LoKr", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "decompose_both": method.decompose_both,
            "decompose_factor": method.factor,
            "rank_dropout_scale": True,
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        own = {"decompose_both": config.get("decompose_both", False), "factor": config.get("decompose_factor", -1)}
        return super().settings(config) | own


@dataclass(frozen=True, kw_only=True)
class LoKr(Lycoris):
    """Two small matrices beside each weight, whose Kronecker product is added to it.

        ┌───────┐       ╔════════╗   ╔════════╗
        │ W O×I │ + s · ║ W1 L×M ║ ⊗ ║ W2 K×N ║        O = L·K,  I = M·N
        └───────┘       ╚════════╝   ╚════════╝
          ╔     ╗          ╔             ╗
          ║ a b ║          ║ a·W2   b·W2 ║        every entry of W1
          ║ c d ║ ⊗ W2  =  ║ c·W2   d·W2 ║        times the whole of W2
          ╚     ╝          ╚             ╝

        W' = W + s W1 ⊗ W2        s = alpha / rank
        W2 is a product (K, R) (R, N) where that is smaller; W1 starts at zero

    When: For very small files with a change of high rank: the rank is the product of the two matrices' ranks. Not where
    the change does not fit the pattern that every block is one and the same W2 times a number.

    Cost: Little for the optimizer to keep. The large product is never formed: a step takes two thirds of full
    fine-tuning's arithmetic and some small products. Merged, it costs nothing at inference.
    """

    name, family, paper = "lokr", "reparameterized", "https://arxiv.org/abs/2309.14859"
    summary = "two small matrices beside each weight, whose Kronecker product is added to it"
    learning_rate = Rates(reading=8e-3, writing=2e-2)
    # rank_dropout_scale: whether the rows that rank dropout leaves are scaled up, in training. Here they always are.
    format = LoKrFormat(
        peft_type="LOKR", read_by_peft=True, known=KNOWN | {"decompose_both", "decompose_factor", "rank_dropout_scale"}
    )

    decompose_both: bool = False
    """Make the first matrix a product of rank `rank` too, where that is smaller."""
    factor: Annotated[int, Range(-1, 1_000_000)] = -1
    """Size of the first matrix: each side has this many rows or columns if the layer's size can be divided so, else at
    most this many. -1: as near to the root of the layer's size as can be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor == 0:
            raise SettingsError(f"method.factor is {self.factor}; it must be at least 1, or -1 for the root")

    def delta(self, host: Host, rank: int) -> Product:
        return KroneckerProduct(host, rank, self.decompose_both, self.factor)


class KroneckerProduct(Product):
    def __init__(self, host: Host, rank: int, decompose_both: bool, factor: int):
        super().__init__()
        out_features, in_features = weights.size(host)
        device = weights.device(host)
        (rows_1, rows_2), (columns_1, columns_2) = split(out_features, factor), split(in_features, factor)
        self.shape = (columns_1, columns_2)
        if decompose_both and rank < max(rows_1, columns_1) / 2:
            self.lokr_w1_a = zeros(rows_1, rank, device)
            self.lokr_w1_b = uniform(rank, columns_1, device)
        else:
            self.lokr_w1 = zeros(rows_1, columns_1, device)
        self.is_low_rank = rank < max(rows_2, columns_2) / 2
        if self.is_low_rank:
            self.lokr_w2_a = uniform(rows_2, rank, device)
            self.lokr_w2_b = uniform(rank, columns_2, device)
        else:
            self.lokr_w2 = uniform(rows_2, columns_2, device)

    def first(self) -> Tensor:
        return self.scale * (self.lokr_w1 if hasattr(self, "lokr_w1") else self.lokr_w1_a @ self.lokr_w1_b)

    def change(self) -> Tensor:
        second_KN = self.lokr_w2_a @ self.lokr_w2_b if self.is_low_rank else self.lokr_w2
        return torch.kron(self.first(), second_KN)

    def changed(self, x_BTI: Tensor) -> Tensor:
        dtype = x_BTI.dtype
        thin = self.lokr_w2_b if self.is_low_rank else self.lokr_w2
        z_BTMR = F.linear(x_BTI.unflatten(-1, self.shape), thin.to(dtype))
        z_BTLR = F.linear(z_BTMR.transpose(-1, -2), self.first().to(dtype)).transpose(-1, -2)
        if self.is_low_rank:
            z_BTLR = F.linear(z_BTLR, self.lokr_w2_a.to(dtype))
        return z_BTLR.flatten(-2)


def split(size: int, factor: int = -1) -> tuple[int, int]:
    """Split `size` as a product, by Hugging Face PEFT's rule: `factor` first if it divides the size; else the smaller
    first, the nearest to the root that is no greater than `factor` (-1: any). A prime is 1 times itself.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    small = max(d for d in range(1, int(size**0.5) + 1) if size % d == 0 and d <= most)
    return small, size // small
