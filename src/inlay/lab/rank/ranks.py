"""How many directions a spectrum has. None of the definitions depends on the update's size.

With singular values s_1 >= s_2 >= ... and shares p_i = s_i / Σ s:

    numerical       how many exceed max(O, I) · eps · s_1, with eps that of the numbers the update was trained in
    stable          Σ s² / s_1²                     https://doi.org/10.1145/1255443.1255449 (Rudelson and Vershynin)
    effective       exp of the entropy of p         https://ieeexplore.ieee.org/document/7098875 (Roy and Vetterli)
    participation   (Σ s²)² / Σ s⁴
    energy          the fewest directions with a share ρ of Σ s²
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ENERGY = (90, 95, 99)  # per cent


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """All are 0 for an update that is zero."""

    numerical: int
    stable: float
    effective: float
    participation: float
    energy: dict[int, int]
    """By per cent of the energy."""


def ranks(values: Tensor, shape: tuple[int, int], eps: float = torch.finfo(torch.float32).eps) -> Ranks:
    """Compute the ranks of a matrix of this shape with these singular values, the largest first."""
    values = values.double()
    squares = values.square()
    if not len(values) or not squares[0] > 0:
        return Ranks(numerical=0, stable=0.0, effective=0.0, participation=0.0, energy=dict.fromkeys(ENERGY, 0))
    shares = values / values.sum()
    return Ranks(
        numerical=int((values > max(shape) * eps * values[0]).sum()),
        stable=float(squares.sum() / squares[0]),
        effective=float(torch.special.entr(shares).sum().exp()),
        participation=float(squares.sum().square() / squares.square().sum()),
        energy={percent: energy_rank(squares, percent / 100) for percent in ENERGY},
    )


def energy_rank(squares: Tensor, share: float) -> int:
    """Return the fewest of the squared values, the largest first, whose sum has this share of all."""
    sums = squares.cumsum(0)
    return int((sums < share * sums[-1] * (1 - 1e-12)).sum()) + 1
