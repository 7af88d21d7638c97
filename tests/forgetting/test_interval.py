import pytest
import torch

from inlay.forgetting.interval import jackknife_interval, ratio
from inlay.stats import student_t


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    x_N = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate, (low, high) = ratio(x_N, torch.ones_like(x_N))
    half = 2.045230 * x_N.std().item() / 30**0.5  # t with 29 degrees of freedom, from a table
    assert estimate == pytest.approx(x_N.mean().item(), rel=1e-12)
    assert (low, high) == pytest.approx((estimate - half, estimate + half), rel=1e-4)


@pytest.mark.parametrize(("freedom", "quantile"), [(15, 2.13145), (23, 2.06866), (35, 2.03011), (167, 1.97427)])
def test_quantiles_are_those_of_the_table(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=1e-5)


def test_the_interval_of_a_ratio_covers_the_truth_about_95_times_in_100() -> None:
    """Passages of different lengths, whose tokens have a skewed loss with a part that the whole passage shares."""
    generator, covered, truth = torch.Generator().manual_seed(1), 0, 0.25
    for _ in range(1000):
        counts_N = torch.randint(40, 90, (60,), generator=generator).double()
        shared_N = torch.empty(60, dtype=torch.float64).exponential_(1 / truth, generator=generator)
        noise_N = torch.randn(60, generator=generator, dtype=torch.float64) * counts_N.sqrt()
        _, (low, high) = ratio(counts_N * shared_N + noise_N, counts_N)
        covered += low <= truth <= high
    assert 920 <= covered <= 970


def test_nothing_varies_where_all_are_alike() -> None:
    assert jackknife_interval(0.5, torch.full((40,), 0.5)) == (0.5, 0.5)
