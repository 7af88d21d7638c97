"""Quantiles, intervals and paired differences, against printed tables and figures computed by hand."""

import math

import numpy as np
import pytest
import torch

from inlay.stats import (
    Means,
    Shares,
    fisher_f,
    jackknife_interval,
    moderated_variances,
    paired_gain,
    ratio,
    student_t,
    unpaired_gain_interval,
    unsteady,
    wilson_interval,
)


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


def test_wilson_intervals_are_those_of_the_published_examples():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for right, rows, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]:
        assert wilson_interval(right / rows, rows) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(1, 20)[1] == 1


@pytest.mark.parametrize(
    ("base", "tuned", "low", "high"), [(0.3, 0.9, 0.1705, 0.8090), (0, 1, 0.6075, 1), (0, 0, -0.2775, 0.2775)]
)
def test_the_unpaired_interval_is_that_of_the_published_examples(base, tuned, low, high):
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10: 9/10 and 3/10, 10/10 and 0/10, 0/10 twice
    assert unpaired_gain_interval(base, tuned, rows=10) == pytest.approx((low, high), abs=6e-5)


def test_few_values_borrow_their_variance_from_the_others() -> None:
    found = moderated_variances({"a": (1.0, 3.0), "b": (1.0, 1.0, 1.0), "c": (5.0,), "d": ()})
    pooled = (1 * 2.0 + 2 * 0.0) / 3
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {"a": (4 * pooled + 2.0) / 5, "b": 4 * pooled / 6, "c": pooled}
    )
    assert {name: each.freedom for name, each in found.items()} == {"a": 3, "b": 3, "c": 3}  # no more than there are
    many = moderated_variances({str(i): (0.0, 1.0, 2.0) for i in range(9)})
    assert {(each.value, each.freedom) for each in many.values()} == {(1.0, 6)}
    assert moderated_variances({"a": (1.0,), "b": (2.0,)}) == {}


def test_accuracies_are_compared_row_by_row() -> None:
    right = torch.arange(500) < 460
    better = right.clone()
    better[460:470] = True  # ten rows more, and none fewer
    gain = Shares(better).gain(Shares(right))
    assert gain.value == pytest.approx(0.02)
    assert gain.low > 0  # of two means alone, 0.94 and 0.92 on 500 rows, nobody could tell
    swapped = right.clone()
    swapped[:30], swapped[460:490] = False, True
    gain = Shares(swapped).gain(Shares(right))
    assert gain.value == 0
    assert gain.low == pytest.approx(-gain.high)
    assert gain.high == pytest.approx(1.96 * math.sqrt(62) / 502, rel=0.01)


def test_rows_on_which_both_are_alike_still_leave_an_uncertainty() -> None:
    right = torch.ones(30, dtype=torch.bool)
    gain = Shares(right).gain(Shares(right))
    assert gain.low < 0 < gain.high


def test_a_lower_loss_is_a_gain_and_rows_count_by_their_tokens() -> None:
    tokens = torch.tensor([100.0, 300.0])
    gain = Means(torch.tensor([1.0, 2.0]), tokens).gain(Means(torch.tensor([2.0, 2.4]), tokens))
    assert gain.value == pytest.approx((100 * 1.0 + 300 * 0.4) / 400)
    assert gain.low < gain.value < gain.high


def test_the_interval_of_a_loss_holds_the_true_gain_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        tokens = torch.randint(50, 200, (60,), generator=generator).double()
        other = 2 + torch.randn(60, generator=generator, dtype=torch.float64)
        own = other - 0.1 + 0.3 * torch.randn(60, generator=generator, dtype=torch.float64)
        gain = Means(own, tokens).gain(Means(other, tokens))
        held += gain.low <= 0.1 <= gain.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_of_one_batch_nothing_can_be_said() -> None:
    one = Means(torch.tensor([1.0]), torch.tensor([10.0]))
    assert one.gain(one).high == math.inf


def test_models_of_a_method_are_taken_together() -> None:
    one, two = Shares(torch.tensor([1, 1, 0, 0])), Shares(torch.tensor([1, 0, 0, 1]))
    gain = paired_gain([one, two], [two, two], 0.95)
    assert gain is not None
    assert gain.value == 0
    half = 1.959964 * ((2 * 0.5**2 + 2) / 6 / 6) ** 0.5  # two rows differ by half, and two are added
    assert (gain.low, gain.high) == pytest.approx((-half, half))
    tokens = torch.tensor([100.0, 300.0])
    ours, theirs = Means(torch.tensor([1.0, 2.0]), tokens), Means(torch.tensor([2.0, 2.4]), tokens)
    both = paired_gain([ours, theirs], [theirs], 0.95)
    assert both is not None
    assert both.value == pytest.approx(ours.gain(theirs).value / 2)


def test_of_other_rows_or_of_unknown_ones_nothing_is_said() -> None:
    shares, tokens = Shares(torch.tensor([1, 0])), torch.tensor([100.0, 300.0])
    means = Means(torch.tensor([1.0, 2.0]), tokens)
    assert paired_gain([shares], [Shares(torch.tensor([1, 0, 1]))], 0.95) is None
    assert paired_gain([shares], [None], 0.95) is None
    assert paired_gain([None], [shares], 0.95) is None
    assert paired_gain([shares], [means], 0.95) is None
    assert paired_gain([means], [Means(torch.tensor([1.0, 2.0]), tokens + 1)], 0.95) is None


def test_the_bound_is_cochrans() -> None:
    """His C = largest / sum is 0.8709 for 3 variances of 3 values at 95 % (the printed tables)."""
    f = fisher_f(2, 4, 1 - 0.05 / 3)
    assert 1 / (1 + 2 / f) == pytest.approx(0.8709, abs=1e-4)
    below, above = ((c / (1 - c) * 2) ** 0.5 for c in (0.8699, 0.8719))
    for factor, found in ((below, []), (above, ["c"])):
        assert unsteady({"a": (1, 2, 3), "b": (4, 5, 6), "c": (0, factor, 2 * factor)}) == found


def test_of_methods_alike_hardly_ever_is_one_called_unsteady() -> None:
    noise = np.random.default_rng(0)
    found = sum(bool(unsteady({str(i): list(noise.normal(0, 1, 3)) for i in range(5)})) for _ in range(1000))
    assert 30 <= found <= 70


def test_several_are_found_one_after_the_other() -> None:
    scores = {
        "a": (1.0, 1.1, 0.9),
        "b": (0.9, 1.0, 1.0),
        "c": (5.0, 9.0, 1.0),
        "d": (1.0, 1.1, 1.0),
        "e": (0.0, 90.0, 9.0),
    }
    assert unsteady(scores) == ["e", "c"]
    assert unsteady({"a": (1.0,), "b": (1.0, 9.0)}) == []
    assert unsteady({}) == []
