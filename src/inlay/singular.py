"""The leading part of a singular value decomposition."""

import torch
from torch import Tensor

_EXACT = 256  # up to this size, or for a larger part of the spectrum, all of it is as quick
_PASSES = 64
_SETTLED = 1e-5  # relative change of every wanted singular value in a pass


def top_singular(matrix_NI: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the `count` largest singular values with their vectors: U (N, R), values (R,), V' (R, I).

    Of a large matrix they come from subspace iteration, which leaves the random state alone and starts from the same
    directions every time; directions whose values are nearly equal may be mixed with each other.
    """
    size = 2 * count + 8
    if min(matrix_NI.shape) <= max(_EXACT, 2 * size):
        u, values, v = torch.linalg.svd(matrix_NI, full_matrices=False)
        return u[:, :count], values[:count], v[:count]
    generator = torch.Generator(matrix_NI.device).manual_seed(0)
    basis_IS = torch.randn(matrix_NI.shape[1], size, device=matrix_NI.device, generator=generator)
    left_NS = torch.linalg.qr(matrix_NI @ basis_IS).Q
    basis_IS, small_SS = torch.linalg.qr(matrix_NI.T @ left_NS)
    values = torch.linalg.svdvals(small_SS)[:count]
    for _ in range(_PASSES):
        before = values
        left_NS = torch.linalg.qr(matrix_NI @ basis_IS).Q
        basis_IS, small_SS = torch.linalg.qr(matrix_NI.T @ left_NS)
        values = torch.linalg.svdvals(small_SS)[:count]
        if ((values - before).abs() <= _SETTLED * values).all():
            break
    u_SS, values, v_SS = torch.linalg.svd(small_SS.T)  # the matrix is nearly left small' basis'
    return left_NS @ u_SS[:, :count], values[:count], v_SS[:count] @ basis_IS.T
