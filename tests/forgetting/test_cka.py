import pytest
import torch
from torch import Tensor

from inlay.forgetting.cka import linear_cka
from inlay.stats import jackknife_interval


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(x: Tensor, y: Tensor) -> float:
    """Song et al.'s estimate of HSIC, as they write it, in a loop over quadruples' sums."""

    def hsic(a: Tensor, b: Tensor) -> float:
        n = len(a)
        a, b = a.clone(), b.clone()
        for i in range(n):
            a[i, i] = b[i, i] = 0
        pairs = sum(float(a[i, j] * b[j, i]) for i in range(n) for j in range(n))
        means = float(a.sum()) * float(b.sum()) / ((n - 1) * (n - 2))
        mixed = 2 / (n - 2) * sum(float(a[:, i].sum() * b[i].sum()) for i in range(n))
        return (pairs + means - mixed) / (n * (n - 3))

    a, b = x.double() @ x.double().T, y.double() @ y.double().T
    return hsic(a, b) / (hsic(a, a) * hsic(b, b)) ** 0.5


def test_it_is_the_published_estimate_with_the_jackknife_written_out() -> None:
    x, y = normal(17, 6), normal(17, 9, seed=1)
    y[:, :6] += x
    found, interval = linear_cka(x, y)
    assert found == pytest.approx(reference(x, y), rel=1e-9)
    rest = [[j for j in range(17) if j != i] for i in range(17)]
    without = torch.tensor([reference(x[r], y[r]) for r in rest], dtype=torch.float64)
    assert interval == pytest.approx(jackknife_interval(found, without), rel=1e-9)


def test_a_representation_is_like_itself_turned_scaled_and_moved() -> None:
    x = normal(60, 20)
    rotation, _ = torch.linalg.qr(normal(20, 20, seed=3).double())
    assert linear_cka(x, x)[0] == pytest.approx(1, abs=1e-12)
    turned = 7 * x.double() @ rotation + normal(20, seed=4)
    assert linear_cka(x, turned)[0] == pytest.approx(1, abs=1e-9)
    wider = torch.cat([x, torch.zeros(60, 5)], dim=1)
    assert linear_cka(x, wider)[1] == pytest.approx((1, 1), abs=1e-9)
    stretched = x * torch.linspace(0.1, 3, 20)
    assert linear_cka(x, stretched)[0] < 0.9


def test_representations_that_have_nothing_in_common_are_at_zero_although_dimensions_are_many() -> None:
    found = [linear_cka(normal(40, 200, seed=2 * i), normal(40, 200, seed=2 * i + 1))[0] for i in range(20)]
    assert abs(sum(found) / 20) < 0.05  # the estimate with its bias is above 0.8 here


def test_the_interval_covers_what_is_true_of_the_distribution() -> None:
    """Of x and y = x + 0.7 noise, whose covariances are 1 and 1.49 times the identity."""
    x = normal(2000, 10)
    y = x + 0.7 * normal(2000, 10, seed=1)
    parts = [slice(i, i + 40) for i in range(0, 2000, 40)]
    covered = sum(low <= 1 / 1.49 <= high for _, (low, high) in (linear_cka(x[p], y[p]) for p in parts))
    assert 43 <= covered <= 50


def test_a_geometry_that_has_collapsed_is_lost_and_one_that_never_was_cannot_be() -> None:
    x, flat = normal(40, 8), torch.ones(40, 8)
    assert linear_cka(x, flat)[0] == 0
    assert linear_cka(flat, x)[0] == 1
    rounded = flat + 1e-7 * normal(40, 8)
    assert linear_cka(x, rounded)[0] == 0
