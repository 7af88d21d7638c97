"""Subspaces compared, as their bases' columns: how much of one lies in the other, and what is new in a tuned weight.

Similarity of the first i directions of one and the first j of another is |U_i' V_j|² / min(i, j): 1 if one space holds
the other, 0 if they are orthogonal (https://arxiv.org/abs/2106.09685, section 7.2). Of random spaces in n dimensions it
is max(i, j) / n on average, which belongs beside every figure.

An intruder dimension (https://arxiv.org/abs/2410.21228) is one of the ten leading left singular vectors of the tuned
weight that no left singular vector of the base comes near: its cosine with each is below 0.5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .spectrum import Spectrum

LEADING = 16  # directions that are compared
INTRUDERS_AMONG, INTRUDER_COSINE = 10, 0.5


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Of the leading directions of two matrices of one shape, as many of each."""

    directions: int
    left: float
    right: float
    random_left: float
    """What random directions would have."""
    random_right: float


@dataclass(frozen=True, kw_only=True)
class AgainstBase:
    overlap: Overlap
    amplification: float
    """The update's length over that of what the base does in the update's directions."""
    intruders: int


def similarity(first_NK: Tensor, second_NK: Tensor) -> float:
    """Measure how much of two spaces is shared, each spanned by orthonormal columns."""
    return float((first_NK.T @ second_NK).square().sum()) / min(first_NK.shape[1], second_NK.shape[1])


def overlap(first: Spectrum, second: Spectrum, directions: int) -> Overlap:
    out_features, in_features = first.shape
    return Overlap(
        directions=directions,
        left=similarity(first.left_OK[:, :directions], second.left_OK[:, :directions]),
        right=similarity(first.right_KI[:directions].T, second.right_KI[:directions].T),
        random_left=directions / out_features,
        random_right=directions / in_features,
    )


def cosine(first: Spectrum, second: Spectrum) -> float:
    """Return the cosine between two updates as vectors of all their entries: 1 for the same up to its length. None is
    formed.
    """
    ones, others = len(first.left_OK.T), len(second.left_OK.T)
    crossed_KK = (first.left_OK.T @ second.left_OK) * (first.right_KI @ second.right_KI.T)
    product = first.values[:ones] @ crossed_KK @ second.values[:others]
    return float(product / (first.values.norm() * second.values.norm()))


@torch.no_grad()
def against_base(update: Spectrum, base_OI: Tensor, tuned_OI: Tensor, directions: int) -> AgainstBase:
    """Compare full decompositions of both weights, in float32 as in the paper on intruders.

    `directions` is how many the update has, at least 1.
    """
    u_OK, values_K, v_KI = torch.linalg.svd(base_OI.float(), full_matrices=False)
    base = Spectrum(
        shape=update.shape, way="dense", values=values_K.double(), left_OK=u_OK.double(), right_KI=v_KI.double()
    )
    left_OK, right_KI = update.left_OK[:, :directions], update.right_KI[:directions]
    there = torch.linalg.vector_norm(left_OK.T @ base_OI @ right_KI.T)
    return AgainstBase(
        overlap=overlap(update, base, min(directions, LEADING)),
        amplification=float(update.values.norm() / there) if there > 0 else float("inf"),
        intruders=len(intruders(tuned_OI.float(), u_OK)),
    )


def intruders(
    tuned_OI: Tensor, base_left_OK: Tensor, among: int = INTRUDERS_AMONG, cosine: float = INTRUDER_COSINE
) -> list[int]:
    """Return which of the leading left singular vectors of the tuned weight are far from all of the base's.

    The base must have full rank: the null space of one that has not can have any vectors.
    """
    u_OK = torch.linalg.svd(tuned_OI, full_matrices=False).U[:, :among]
    nearest_K = (base_left_OK.T @ u_OK).abs().amax(0)
    return (nearest_K < cosine).nonzero()[:, 0].tolist()
