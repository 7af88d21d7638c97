"""Linear CKA: how alike two geometries are, of the same passages in two models.

    CKA = <K, L> / sqrt(<K, K> <L, L>)        K = X X^T, L = Y Y^T, both U-centred

https://arxiv.org/abs/1905.00414. It is 1 if one representation is the other turned and scaled, whatever its width, and
0 if they have nothing to do with each other. Kornblith et al. estimate it with a bias that lifts it towards 1 when
there are no more passages than dimensions, as here. U-centring (https://arxiv.org/abs/1310.2926, and as an unbiased
estimate of HSIC Song et al. 2012, https://www.jmlr.org/papers/v13/song12a.html) leaves out what each passage has in
common with itself, which is that bias.
"""

import torch
from torch import Tensor

from ..stats import Interval, jackknife_interval

_FLAT = 1e-6  # of the length of the representations: differences below that are rounding


def linear_cka(x_ND: Tensor, y_ND: Tensor) -> tuple[float, Interval]:
    """Return the similarity of two representations of N passages, and its 95 % interval; the widths may differ."""
    gram_NN, other_NN = _gram(x_ND), _gram(y_ND)
    estimate = _similarity(gram_NN, other_NN)
    keep = ~torch.eye(len(gram_NN), dtype=torch.bool)
    without_N = torch.tensor([_similarity(gram_NN[k][:, k], other_NN[k][:, k]) for k in keep], dtype=torch.float64)
    return estimate, jackknife_interval(estimate, without_N)


def _gram(x_ND: Tensor) -> Tensor:
    """Return products of the centred representations, in float64; 0 throughout if all are the same but for rounding."""
    x_ND = x_ND.double()
    centred_ND = x_ND - x_ND.mean(dim=0)
    if centred_ND.norm() <= _FLAT * x_ND.norm():
        centred_ND = torch.zeros_like(centred_ND)
    return centred_ND @ centred_ND.T


def _similarity(gram_NN: Tensor, other_NN: Tensor) -> float:
    a_NN, b_NN = _u_centred(gram_NN), _u_centred(other_NN)
    size = (a_NN.square().sum() * b_NN.square().sum()).sqrt()
    if size == 0:  # without a geometry there is nothing to lose, and a geometry that is no more is lost
        return float(not a_NN.any())
    return ((a_NN * b_NN).sum() / size).item()


def _u_centred(gram_NN: Tensor) -> Tensor:
    """Return the matrix without its diagonal, and with every row and column with the sum 0."""
    n = len(gram_NN)
    off_NN = gram_NN - torch.diag(gram_NN.diag())
    rows_N = off_NN.sum(dim=1)
    centred_NN = off_NN - (rows_N[:, None] + rows_N) / (n - 2) + rows_N.sum() / ((n - 1) * (n - 2))
    return centred_NN.fill_diagonal_(0)
