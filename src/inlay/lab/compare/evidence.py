"""What the scores of several methods allow one to tell, in numbers: which may be as good as the best, which is advised.

There are two sources of noise, and both count, as the root of their squares' sum. Seeds: the variance of a method's
runs is its own weighted with that of all methods (stats.moderated_variances), since two or three runs say little of it.
Rows: the difference on rows like these, from how far two methods differ on each of them, a method's models taken
together; more seeds do not make it much smaller, since all are evaluated on the same rows. A method is worse than the
best if it is below it by more than this noise, at 95 % for all of them together (Bonferroni). Of one seed each, the
rows alone can tell two apart, and only as these seeds left them: what another seed changes is not known, and one in
ten may collapse. So nothing is told to be the best method then, and the best mean is advised.

The best mean is advised, of several equal ones that with the lowest loss, or a cheaper method if that is at most
`margin` below it, as far as can be told: its own mean is within the rows' noise, and the upper bound of the difference
(90 %, one side) within the margin. Where neither is so, it cannot be told, and the best mean is advised as that.
`scripts/simulate_advice.py` has what else was tried.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Self

from ...stats import Parts, Variance, moderated_variances, normal_z, paired_gain, student_t, unsteady

_LEVEL = 0.95  # of all differences from the best together
_BOUND = 0.90  # of the bound of what a cheaper method may be below the best


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Differences up to `size` mean nothing; None where the runs do not tell."""

    of_seeds: float | None
    of_rows: float | None

    @property
    def size(self) -> float:
        return math.hypot(self.of_seeds or 0.0, self.of_rows or 0.0)

    @property
    def is_known(self) -> bool:
        return self.of_seeds is not None or self.of_rows is not None

    @property
    def is_mostly_of_seeds(self) -> bool:
        return (self.of_seeds or 0.0) > (self.of_rows or 0.0)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A method's scores, one for each seed, and what each is the mean of, row by row."""

    name: str
    scores: tuple[float, ...]
    parts: tuple[Parts | None, ...] = ()
    loss: float = 0.0
    """Its mean on the same rows, a finer measure where scores are equal; the same of all where it is not known."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    def is_level_with(self, other: Self) -> bool:
        """Tell whether the means are equal, but for the last bits of a sum."""
        return math.isclose(self.mean, other.mean, rel_tol=1e-12)


@dataclass(frozen=True, kw_only=True)
class AgainstBest:
    """A method beside the one with the best mean."""

    name: str
    below: float
    """How far its mean is below the best, in the score's unit."""
    noise: Noise
    """At the level at which all differences from the best hold together."""
    rows: float
    """How far the rows alone may have put it below; 0 if that is not known."""
    at_most: float
    """How far it is below at most."""

    @property
    def is_within(self) -> bool:
        """Whether nothing that is known tells it from the best; of one seed each that is what the rows tell."""
        return not self.noise.is_known or self.below <= self.noise.size


@dataclass(frozen=True, kw_only=True)
class Field:
    """The methods of a comparison, at least one, whose scores are better the higher (sign 1) or the lower (-1)."""

    contestants: Sequence[Contestant]
    sign: int = 1
    rows: int | None = None
    """The number of rows that a score is a share of, for runs that have kept no parts."""
    cheapest: Callable[[Sequence[str]], str] = itemgetter(0)
    """Picks one of several names."""

    @cached_property
    def best(self) -> Contestant:
        return self.first_of(self.contestants)

    def first_of(self, contestants: Sequence[Contestant]) -> Contestant:
        """Return the one with the best mean; of several the one with the lowest loss, then the cheapest."""
        top = max(contestants, key=lambda each: self.sign * each.mean)
        level = [each for each in contestants if each.is_level_with(top)]
        lowest = min(each.loss for each in level)
        left = {each.name: each for each in level if each.loss == lowest}
        return left[self.cheapest(list(left))]

    @cached_property
    def compared(self) -> list[AgainstBest]:
        """All others beside the best."""
        return [self.compare(each, self.best) for each in self.contestants if each is not self.best]

    def compare(self, own: Contestant, best: Contestant) -> AgainstBest:
        """Return how far a method is below another."""
        alone = 1 - (1 - _LEVEL) / max(1, len(self.contestants) - 1)
        noise, bound = (self._noise(own, best, level) for level in (alone, 2 * _BOUND - 1))
        below = 0.0 if own.is_level_with(best) else self.sign * (best.mean - own.mean)
        rows = self._rows_noise(own, best, _LEVEL) or 0.0
        return AgainstBest(name=own.name, below=below, noise=noise, rows=rows, at_most=below + bound.size)

    @property
    def has_seeds(self) -> bool:
        """Whether a method has two runs, so that something is known of what a seed changes."""
        return bool(self._variances)

    @cached_property
    def _variances(self) -> Mapping[str, Variance]:
        return moderated_variances({each.name: each.scores for each in self.contestants})

    def _noise(self, own: Contestant, best: Contestant, level: float) -> Noise:
        return Noise(of_seeds=self._seeds_noise(own, best, level), of_rows=self._rows_noise(own, best, level))

    def _seeds_noise(self, own: Contestant, best: Contestant, level: float) -> float | None:
        if not self._variances:
            return None
        mine, its = self._variances[own.name], self._variances[best.name]
        error = math.sqrt(mine.value / len(own.scores) + its.value / len(best.scores))
        return student_t(min(mine.freedom, its.freedom), level) * error

    def _rows_noise(self, own: Contestant, best: Contestant, level: float) -> float | None:
        """Return by how much the best may be above the other on these rows though it is not on others like them."""
        gain = paired_gain(best.parts, own.parts, level) if own.parts and best.parts else None
        if gain is not None and math.isfinite(gain.low):
            return gain.value - gain.low
        if self.rows is None:
            return None
        shares = [(each.mean * self.rows + 1) / (self.rows + 2) for each in (own, best)]  # as of rows that differ
        return normal_z(level) * math.sqrt(sum(share * (1 - share) for share in shares) / self.rows)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The method that is advised, and why it."""

    name: str
    first: str
    """The best mean of those to choose from; the best of all unless that is left out."""
    among: tuple[str, ...]
    """The methods as good as `first` as far as it matters, or as far as is seen, with the one advised, the cheapest of
    those."""
    unsteady: tuple[str, ...]
    """The methods left out since seeds change them more than the others."""
    is_told: bool
    """Whether it is known to be as good as the best, or as far as it matters."""
    at_most: float
    """How far it is below `first` at most."""


def choose(field: Field, margin: float, left_out: Set[str] = frozenset()) -> Choice:
    """Choose a method, but none of those `left_out` unless all are.

    What seeds change more than the others is left out too, and its variance is no measure of theirs.
    """
    equal = {field.best.name, *(each.name for each in field.compared if each.is_within)}
    near = {field.best.name, *(each.name for each in field.compared if each.name in equal and each.below <= each.rows)}
    changing = set(_unsteady(field))
    to_choose = near - left_out - changing or near - left_out or {field.best.name}
    steady = [each for each in field.contestants if each.name in to_choose or each.name not in changing]
    first = field.first_of([each for each in steady if each.name in to_choose])
    others = replace(field, contestants=steady)
    beside = {e.name: others.compare(e, first) for e in steady if e.name in to_choose and e is not first}
    near_enough = [name for name, each in beside.items() if each.at_most <= margin and field.has_seeds]
    level = [name for name, each in beside.items() if each.below == 0 and name not in near_enough]
    among = [first.name, *near_enough, *level]
    name = field.cheapest([first.name, *near_enough])
    return Choice(
        name=name,
        first=first.name,
        among=tuple(among),
        unsteady=tuple(sorted((equal & changing) - to_choose)),
        is_told=field.has_seeds and (bool(near_enough) or not any(each.is_within for each in field.compared)),
        at_most=beside[name].at_most if name in beside else 0.0,
    )


def _unsteady(field: Field) -> list[str]:
    """Find the methods that seeds change more than the others, and so much that it is most of the noise."""
    found = unsteady({each.name: each.scores for each in field.contestants})
    much = {each.name: each.noise.is_mostly_of_seeds for each in field.compared}
    return [name for name in found if much.get(name, any(much.values()))]
