from pathlib import Path

import torch

from inlay.stats import Means, Shares
from inlay.training.score_parts import read_parts, write_parts


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
