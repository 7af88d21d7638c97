"""How fast a machine computes: for each kind of operation the time of one, of its products and of its bytes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .work import VIEWS, Amount, Work

_SHORTEST = 1e-6  # seconds; errors below that do not count
_ASSUMED = 0.03  # of the weight of what was seen
_PRODUCTS, _PASS = Amount(1, 1e9, 1e7, 5e6), Amount(1, 0, 1e7, 5e6)


class Rate(NamedTuple):
    """Seconds that operations of a kind take."""

    operation: float = 0.0  # for each
    product: float = 0.0  # for a multiplication or addition
    moved: float = 0.0  # for a byte that is read or written
    made: float = 0.0  # for a byte of memory that is new

    def seconds(self, amount: Amount) -> float:
        return sum(each * number for each, number in zip(self, amount, strict=True))


@dataclass(frozen=True)
class Speed:
    """A machine's speed, as one training on all its threads has it."""

    rates: Mapping[str, Rate]
    """Rates by kind of operation."""
    multiplying: Rate
    """The rate of kinds that compute products and are not known."""
    passing: Rate
    """The rate of other kinds that are not known."""
    beside: Rate = Rate()
    """The time of each operation beside what it computes: calling it, and giving its result's memory back."""
    factor: float = 1.0
    """The factor by which all of it takes longer."""

    def slower(self, factor: float) -> "Speed":
        return replace(self, factor=self.factor * factor)

    def seconds(self, work: Work) -> float:
        seconds = sum(
            self._rate(kind, amount).seconds(amount) + self.beside.seconds(amount)
            for kind, amount in work.amounts.items()
        )
        return self.factor * max(0.0, seconds)

    def _rate(self, kind: str, amount: Amount) -> Rate:
        return self.rates.get(kind) or (self.multiplying if amount.products else self.passing)


Timed = tuple[Amount, float]
"""What operations do, and their seconds."""


def fitted(timed: Mapping[str, Sequence[Timed]]) -> Speed:
    """Return the speed that fits operations of each kind, with no rate below 0."""
    groups = defaultdict[bool, list[Timed]](list)
    for each in timed.values():
        for amount, seconds in each:
            groups[amount.products > 0].append((amount, seconds))
    usual = {multiplies: _rate(each) for multiplies, each in groups.items()}
    rates = {kind: _rate(each, None if kind == VIEWS else _large(usual, each)) for kind, each in timed.items()}
    return Speed(rates, usual.get(True, Rate()), usual.get(False, Rate()))


def _large(usual: Mapping[bool, Rate], timed: Sequence[Timed]) -> Timed:
    """Return a large operation at the usual rate, which tells of a kind that was seen in small ones alone, or in those
    of one size."""
    amount = _PRODUCTS if timed[0][0].products else _PASS
    return amount, usual[amount.products > 0].seconds(amount)


def _rate(timed: Sequence[Timed], assumed: Timed | None = None) -> Rate:
    """Fit by least squares; an error counts as much beside a short time as ten times it beside a hundred times that.
    What is assumed hardly counts where something is known."""
    import numpy as np
    from scipy.optimize import nnls

    every = [*timed, *([] if assumed is None else [assumed])]
    amounts, seconds = np.array([amount for amount, _ in every]), np.array([s for _, s in every])
    weights, sizes = 1 / np.sqrt(seconds + _SHORTEST), np.maximum(amounts.max(0), 1.0)
    if assumed is not None:
        weights[-1] *= _ASSUMED
    found, _ = nnls(amounts / sizes * weights[:, None], seconds * weights)
    return Rate(*(float(x) for x in found / sizes))
