import math
from pathlib import Path

import pytest
import torch

from inlay.training.differences import Means, Shares, gain_of, read_parts, write_parts


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


def test_models_of_a_method_are_taken_together() -> None:
    one, two = Shares(torch.tensor([1, 1, 0, 0])), Shares(torch.tensor([1, 0, 0, 1]))
    gain = gain_of([one, two], [two, two], 0.95)
    assert gain is not None
    assert gain.value == 0
    half = 1.959964 * ((2 * 0.5**2 + 2) / 6 / 6) ** 0.5  # two rows differ by half, and two are added
    assert (gain.low, gain.high) == pytest.approx((-half, half))
    tokens = torch.tensor([100.0, 300.0])
    ours, theirs = Means(torch.tensor([1.0, 2.0]), tokens), Means(torch.tensor([2.0, 2.4]), tokens)
    both = gain_of([ours, theirs], [theirs], 0.95)
    assert both is not None
    assert both.value == pytest.approx(ours.gain(theirs).value / 2)


def test_of_other_rows_or_of_unknown_ones_nothing_is_said() -> None:
    shares, tokens = Shares(torch.tensor([1, 0])), torch.tensor([100.0, 300.0])
    means = Means(torch.tensor([1.0, 2.0]), tokens)
    assert gain_of([shares], [Shares(torch.tensor([1, 0, 1]))], 0.95) is None
    assert gain_of([shares], [None], 0.95) is None
    assert gain_of([None], [shares], 0.95) is None
    assert gain_of([shares], [means], 0.95) is None
    assert gain_of([means], [Means(torch.tensor([1.0, 2.0]), tokens + 1)], 0.95) is None


def test_a_run_keeps_the_parts_of_each_split(tmp_path: Path) -> None:
    right = Shares(torch.tensor([True, False, True]))
    losses = Means(torch.tensor([0.1, 1 / 3], dtype=torch.float64), torch.tensor([7.0, 5.0], dtype=torch.float64))
    write_parts(tmp_path, {"valid": right, "test": losses})
    valid, test = read_parts(tmp_path, "valid"), read_parts(tmp_path, "test")
    assert isinstance(valid, Shares)
    assert valid.right_N.tolist() == [1, 0, 1]
    assert isinstance(test, Means)
    assert torch.equal(test.losses_N, losses.losses_N)
    assert torch.equal(test.tokens_N, losses.tokens_N)
    assert read_parts(tmp_path, "train") is None
    assert read_parts(tmp_path / "elsewhere", "valid") is None
