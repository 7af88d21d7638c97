"""The settings that fit and cost least time."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay.cost.choice import Candidate, choose
from inlay.cost.run_cost import Way
from inlay.cost.speed import Rate, Speed
from inlay.cost.work import Amount, Work
from inlay.errors import SettingsError
from inlay.methods import METHODS

RATES = Speed({"product": Rate(1.0, 1.0)}, multiplying=Rate(), passing=Rate())


def work(products: float, operations: float = 0.0) -> Work:
    return Work({"product": Amount(operations, products)})


KEPT = {"none": 10, "feed-forward": 6, "all": 1}  # bytes of a row
AGAIN = {"none": 0, "feed-forward": 20, "all": 40}  # products


def cost(way: Way) -> Any:
    size = way.micro_batch_size or way.batch_size
    rounds = way.batch_size // size
    return SimpleNamespace(
        tensor_bytes=100 + size * KEPT[way.recompute],
        step=SimpleNamespace(forward=work(40 / rounds)),
        work=work(120 + AGAIN[way.recompute], operations=4 * rounds),
        share=1.0,
    )


def chosen(most: int, way: Way) -> tuple[Candidate, list[Way]]:
    asked: list[Way] = []

    def cost_of(way: Way) -> Any:
        asked.append(way)
        return cost(way)

    first = Candidate(way, cost(way), fits=False)
    return choose(first, cost_of, lambda each: each.tensor_bytes <= most, RATES), asked


@pytest.mark.parametrize("most", range(102, 260, 4))
def test_it_is_the_fastest_that_fits(most: int) -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16)
    found, asked = chosen(most, way)
    ways = [replace(way, micro_batch_size=size, recompute=kind) for size in (1, 2, 4, 8, 16) for kind in KEPT]
    fitting = [each for each in ways if cost(each).tensor_bytes <= most]
    if not fitting:
        assert not found.fits
        assert found.cost.tensor_bytes == 101
        return
    assert found.fits
    assert RATES.seconds(found.cost.work) == min(RATES.seconds(cost(each).work) for each in fitting)
    assert len(asked) <= 10


def test_what_was_asked_for_is_kept_to() -> None:
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16, micro_batch_size=4)
    asked: list[Way] = []

    def cost_of(way: Way) -> Any:
        asked.append(way)
        return cost(way)

    def choose_below(most: int, *, may_recompute: bool) -> Candidate:
        fits: Any = lambda each: each.tensor_bytes <= most  # noqa: E731
        first = Candidate(way, cost(way), fits=False)
        return choose(first, cost_of, fits, RATES, may_recompute=may_recompute, may_divide=False)

    found = choose_below(110, may_recompute=True)
    assert found.fits
    assert found.way.recompute == "all"
    assert not choose_below(110, may_recompute=False).fits
    assert {each.micro_batch_size for each in asked} == {4}


@dataclass(frozen=True)
class Step:
    """A step whose memory falls by 9 bytes a row with each of ten blocks that is computed again."""

    again: float  # blocks
    size: int
    price: float = 3  # products of a block

    @property
    def bytes(self) -> float:
        return 100 + self.size * (100 - 9 * self.again)

    @property
    def work(self) -> Work:
        return work(100 + self.price * self.again, operations=800 / self.size)

    @property
    def forward(self) -> Work:
        return work(30 * self.size / 16)

    def further(self, other: "Step", steps: float) -> "Step":
        return replace(self, again=self.again + steps * (other.again - self.again))


@dataclass(frozen=True)
class Cost:
    """What is told of such a step."""

    step: Step
    share: float = 1.0

    @property
    def tensor_bytes(self) -> float:
        return self.step.bytes

    @property
    def work(self) -> Work:
        return self.step.work


def chosen_of_ten_blocks(most: int, price: float = 3) -> Candidate:
    def cost_of(way: Way) -> Any:
        if way.recompute == "feed-forward":
            raise SettingsError("there are none")
        again = int({"none": "0", "all": "10"}.get(way.recompute, way.recompute))
        return Cost(Step(again, way.rows, price))

    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=16)
    fits: Any = lambda each: each.tensor_bytes <= most  # noqa: E731
    return choose(Candidate(way, cost_of(way), fits=False), cost_of, fits, RATES, blocks=10)


def test_no_more_blocks_are_computed_again_than_have_to() -> None:
    found = chosen_of_ten_blocks(1000)
    assert found.fits
    assert found.way.recompute == "5"  # 100 + 16 * 55 = 980
    assert found.way.micro_batch_size == 16


def test_few_blocks_again_beat_smaller_micro_batches_where_all_would_not() -> None:
    found = chosen_of_ten_blocks(1560, price=8)  # all would take longer than eight rows at once
    assert (found.way.recompute, found.way.micro_batch_size) == ("1", 16)  # 100 + 16 * 91 = 1556
    found = chosen_of_ten_blocks(1560, price=100)
    assert (found.way.recompute, found.way.micro_batch_size) == ("none", 8)
