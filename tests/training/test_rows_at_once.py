"""How many rows at once several processes compute that share a step."""

from dataclasses import replace

import pytest
import torch

from inlay.cost.choice import Candidate
from inlay.cost.run_cost import Way
from inlay.methods import METHODS
from inlay.training.rows_at_once import choose_among, share_of

from ..cost.test_choice import KEPT, RATES, cost


@pytest.mark.parametrize(("batch_size", "among", "share"), [(16, 2, 8), (16, 3, 4), (10, 4, 2), (7, 2, 1), (4, 4, 1)])
def test_a_share_leaves_no_process_without_rows(batch_size: int, among: int, share: int) -> None:
    assert share_of(batch_size, among) == share


@pytest.mark.parametrize("speed", [RATES, None])
@pytest.mark.parametrize("most", range(101, 180, 4))
def test_what_fits_for_several_processes_is_the_fastest_of_the_sizes_that_give_each_some_rows(
    most: int, speed: object
) -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16, micro_batch_size=8, processes=2)
    fits = lambda each: each.tensor_bytes <= most  # noqa: E731
    found = choose_among(2, Candidate(way, cost(way), fits=False), cost, fits, speed, None, True)  # pyright: ignore
    ways = [replace(way, micro_batch_size=size, recompute=kind) for size in (1, 2, 4, 8) for kind in KEPT]
    fitting = [each for each in ways if fits(cost(each))]
    assert found.fits
    seconds = RATES.seconds if speed is RATES else lambda work: work.products
    assert seconds(found.cost.work) == min(seconds(cost(each).work) for each in fitting)


def test_where_nothing_fits_it_is_what_takes_least() -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16, micro_batch_size=8, processes=2)
    found = choose_among(2, Candidate(way, cost(way), fits=False), cost, lambda _: False, RATES, None, True)
    assert (found.fits, found.cost.tensor_bytes) == (False, 101)
