"""The singular value decomposition of one layer's update.

An update that is a product of thin factors, L (O, R) times M (R, I), is never formed: with L = Q_L R_L and M' = Q_M R_M
its singular values are those of R_L R_M', which is no larger than R x R. Everything is in float64 on the CPU: in
float32 a product of nearly dependent factors would lose digits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KEPT = 128  # directions of an update that has as many as its layer; all of its values are kept


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """U diag(s) V' of an update, the largest first."""

    shape: tuple[int, int]
    way: Literal["thin", "dense"]
    values: Tensor
    """All that are not zero by the update's form: at most R of a thin one, min(O, I) of a dense one."""
    left_OK: Tensor
    right_KI: Tensor
    stack: str | None = None
    """The parameter that it shares with other experts."""

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return (O, rank) and (rank, I), equally long, whose product is the best approximation of that rank."""
        root_K = self.values[:rank].sqrt()
        return self.left_OK[:, :rank] * root_K, root_K[:, None] * self.right_KI[:rank]


@torch.no_grad()
def of_thin(left_OR: Tensor, right_RI: Tensor) -> Spectrum:
    """Take that of the product of thin factors, which is never formed."""
    with _one_thread():
        q_OR, r_RR = torch.linalg.qr(_exact(left_OR))
        q_IR, s_RR = torch.linalg.qr(_exact(right_RI).T)
        u_RK, values_K, v_KR = torch.linalg.svd(r_RR @ s_RR.T, full_matrices=False)
        left_OK, right_KI = q_OR @ u_RK, v_KR @ q_IR.T
    shape = (len(left_OR), right_RI.shape[1])
    return Spectrum(shape=shape, way="thin", values=values_K, left_OK=left_OK, right_KI=right_KI)


@torch.no_grad()
def of_dense(update_OI: Tensor) -> Spectrum:
    u_OK, values_K, v_KI = torch.linalg.svd(_exact(update_OI), full_matrices=False)
    shape = (update_OI.shape[0], update_OI.shape[1])
    left_OK, right_KI = u_OK[:, :KEPT].clone(), v_KI[:KEPT].clone()  # or the rest would stay in memory with them
    return Spectrum(shape=shape, way="dense", values=values_K, left_OK=left_OK, right_KI=right_KI)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: several wait for each other longer than they work; beside other programs, a tenth of a second a
    layer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
