"""Matrices of known singular values, made from their decomposition."""

from collections.abc import Sequence

import torch
from torch import Tensor


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q


def thin(shape: tuple[int, int], values: Sequence[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Factors with these singular values that show none of it: mixed by a matrix that is far from orthogonal."""
    rank = len(values)
    generator = torch.Generator().manual_seed(seed + 2)
    mix_RR = torch.randn(rank, rank, dtype=torch.float64, generator=generator) + 3 * torch.eye(
        rank, dtype=torch.float64
    )
    left_OR = orthonormal(shape[0], rank, seed) * torch.tensor(values, dtype=torch.float64)
    return left_OR @ mix_RR, torch.linalg.solve(mix_RR, orthonormal(shape[1], rank, seed + 1).T)
