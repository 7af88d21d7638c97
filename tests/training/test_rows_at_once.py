"""How many rows are computed at once: by a CPU, and by several processes that share a step."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from inlay.cost.choice import Candidate
from inlay.cost.run_cost import Way
from inlay.methods import METHODS
from inlay.training.rows_at_once import choose_among, quick_rows, rows_at_once, share_of

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
    found = choose_among(2, Candidate(way, cost(way), fits=False), cost, fits, speed, None, may_recompute=True)  # pyright: ignore
    ways = [replace(way, micro_batch_size=size, recompute=kind) for size in (1, 2, 4, 8) for kind in KEPT]
    fitting = [each for each in ways if fits(cost(each))]
    assert found.fits
    seconds = RATES.seconds if speed is RATES else lambda work: work.products
    assert seconds(found.cost.work) == min(seconds(cost(each).work) for each in fitting)


def test_where_nothing_fits_it_is_what_takes_least() -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16, micro_batch_size=8, processes=2)
    found = choose_among(2, Candidate(way, cost(way), fits=False), cost, lambda _: False, RATES, None, True)
    assert (found.fits, found.cost.tensor_bytes) == (False, 101)


class Rows:
    """Training rows of these lengths, whose batches are padded to their longest."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def order(self, batch_size: int, seed: int) -> list[list[int]]:
        rows = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def size(self, rows: list[int]) -> int:
        return len(rows) * max(self.lengths[i] for i in rows)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("lengths", "batch_size", "size"),
    [
        ([512] * 64, 32, 4),
        ([512] * 10, 32, 4),  # fewer rows than a batch
        ([128] * 64, 16, 16),
        ([300] * 60, 12, 6),  # of the sizes that divide the batch
        ([20] * 60 + [512], 16, 16),  # one long row does not slow the others down
        ([5000] * 4, 2, 1),
    ],
)
def test_a_cpu_computes_as_much_at_once_as_it_is_fastest_with(
    lengths: list[int], batch_size: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    rows: Any = Rows(lengths)
    found, why = rows_at_once(rows, batch_size, 0, CPU)
    assert found == size
    assert (why is None) == (size == batch_size)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert quick_rows(rows, batch_size, 0, CPU) >= min(batch_size, 2 * size)  # each thread has enough to do


def test_an_accelerator_computes_the_whole_batch_at_once() -> None:
    rows: Any = Rows([512] * 64)
    assert rows_at_once(rows, 32, 0, torch.device("cuda")) == (32, None)


def test_processes_share_a_batch_however_short_its_rows_are() -> None:
    short, long = (Rows([length] * 64) for length in (10, 512))
    rows, why = rows_at_once(short, 16, 0, CPU, 2)  # pyright: ignore[reportArgumentType]
    assert rows == 8
    assert "2 processes" in str(why)
    assert rows_at_once(long, 16, 0, CPU, 2)[0] == 4  # pyright: ignore[reportArgumentType]


def test_what_does_not_fit_is_divided_further() -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16, micro_batch_size=4)
    fits = lambda each: each.tensor_bytes <= 122  # noqa: E731
    found = choose_among(1, Candidate(way, cost(way), fits=False), cost, fits, RATES, None, may_recompute=False)
    assert found.way.rows == 2
    kept = choose_among(1, found, cost, lambda _: False, RATES, None, may_recompute=False, may_divide=False)
    assert kept.way.rows == 2
