import math

import pytest
import torch

from inlay.training.differences import Means, Shares


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


def test_a_lower_loss_is_a_gain_and_batches_count_by_their_tokens() -> None:
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
