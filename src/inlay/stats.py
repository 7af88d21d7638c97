"""How sure a figure is: quantiles, intervals, and the difference of two models on the same rows.

Intervals are at 95 % unless a level is named. scipy is imported when a figure is computed, not with this module.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

Interval = tuple[float, float]
_PRIOR_FREEDOM = 4  # values that the pooled variance counts as; chosen by scripts/simulate_advice.py


def student_t(freedom: int, level: float = 0.95) -> float:
    """Return the half width of a two-sided interval of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def normal_z(level: float = 0.95) -> float:
    """Return the half width of a two-sided interval of the normal distribution."""
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def fisher_f(freedom: int, others: int, level: float) -> float:
    """Return the critical value of the F distribution, of the ratio of two equal variances."""
    from scipy.special import fdtri

    return float(fdtri(freedom, others, level))


def wilson_interval(share: float, rows: int) -> Interval:
    """Return the interval of a share of `rows`; unlike the normal one it holds for few rows and shares near 0 or 1."""
    z = normal_z()
    z2 = z**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = z / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(total: float, squares: float, rows: int, level: float = 0.95) -> Interval:
    """Return the interval of the difference of two accuracies on the same rows, from the sum of the rows' differences
    and that of their squares (Bonett and Price 2012).

    It is taken as if there were two rows more, one that only this model has right and one that only the other has.
    """
    mean = total / (rows + 2)
    half = normal_z(level) * math.sqrt(((squares + 2) / (rows + 2) - mean**2) / (rows + 2))
    return max(-1.0, mean - half), min(1.0, mean + half)


def unpaired_gain_interval(base: float, tuned: float, rows: int) -> Interval:
    """Return the interval of the difference of two accuracies of which no more is known (Newcombe 1998, method 10).

    It is wider than the paired one.
    """
    base_low, base_high = wilson_interval(base, rows)
    tuned_low, tuned_high = wilson_interval(tuned, rows)
    gain = tuned - base
    return gain - math.hypot(tuned - tuned_low, base_high - base), gain + math.hypot(
        tuned_high - tuned, base - base_low
    )


@dataclass(frozen=True)
class Variance:
    """A variance as it is estimated, with its degrees of freedom."""

    value: float
    freedom: int


def moderated_variances(values: Mapping[str, Sequence[float]]) -> dict[str, Variance]:
    """Estimate each name's variance from its own values and what all have in common; empty if no name has two values.

    Few values say little of their variance, and a pair that is alike by chance would be called certain. So each has its
    own weighted with the pooled one, which counts as four further values (the moderated t of Smyth 2004,
    https://doi.org/10.2202/1544-6115.1027, with a prior weight that does not depend on the data).
    """
    freedoms = {name: len(found) - 1 for name, found in values.items() if found}
    own = {name: statistics.variance(values[name]) for name, freedom in freedoms.items() if freedom}
    in_all = sum(freedoms.values())
    if not in_all:
        return {}
    pooled = sum(freedoms[name] * variance for name, variance in own.items()) / in_all
    return {
        name: Variance(
            (_PRIOR_FREEDOM * pooled + freedom * own.get(name, pooled)) / (_PRIOR_FREEDOM + freedom),
            min(in_all, _PRIOR_FREEDOM + freedom),
        )
        for name, freedom in freedoms.items()
    }


def jackknife_interval(estimate: float, without_N: "Tensor") -> Interval:
    """Return the interval around an estimate, given its value without each of N parts in turn.

    The variance is (N - 1)/N times the sum of squares of what these values differ by, and the interval is that of
    Student's t with N - 1 degrees of freedom. Unlike a bootstrap it draws nothing, and has no part twice, which would
    look like a pair that is perfectly alike to CKA.   https://doi.org/10.1214/aoms/1177706647
    """
    n = len(without_N)
    variance = (n - 1) / n * (without_N - without_N.mean()).square().sum().item()
    half = student_t(n - 1) * math.sqrt(variance)
    return estimate - half, estimate + half


def ratio(totals_N: "Tensor", counts_N: "Tensor") -> tuple[float, Interval]:
    """Return the mean of all things that N parts consist of, such as tokens, from each part's total and count."""
    total, count = totals_N.sum(), counts_N.sum()
    estimate = (total / count).item()
    return estimate, jackknife_interval(estimate, (total - totals_N) / (count - counts_N))


def unsteady(values: Mapping[str, Sequence[float]], level: float = 0.95) -> list[str]:
    """Return the names whose values vary more than the others' do, the most varying first.

    Cochran's test for an outlying variance (Cochran 1941, Annals of Eugenics 11): the largest variance against what the
    others have in common, an F ratio, at `level` for however many there are. It is repeated without the one that was
    found. Two that vary equally much can hide each other; a single value tells nothing.
    """
    variances = {name: statistics.variance(found) for name, found in values.items() if len(found) > 1}
    freedoms = {name: len(values[name]) - 1 for name in variances}
    found: list[str] = []
    while len(variances) > 1:
        name = max(variances, key=variances.__getitem__)
        largest, each = variances.pop(name), 1 - (1 - level) / (len(variances) + 1)
        freedom = sum(freedoms[other] for other in variances)
        common = sum(freedoms[other] * variance for other, variance in variances.items()) / freedom
        if largest <= common * fisher_f(freedoms[name], freedom, each):
            break
        found.append(name)
    return found


@dataclass(frozen=True)
class Difference:
    """A difference of two models' main scores, above zero where this one is better, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """The parts of an accuracy: whether each row is right, 0 or 1; of several models, the share of them."""

    right_N: "Tensor"

    @classmethod
    def mean(cls, models: Sequence[Self]) -> Self:
        """Average over several models."""
        import torch

        return cls(torch.stack([each.right_N.double() for each in models]).mean(0))

    def pairs_with(self, other: Self) -> bool:
        """Return whether both are of the same rows, as far as can be seen."""
        return len(self.right_N) == len(other.right_N)

    def gain(self, other: Self, level: float = 0.95) -> Difference:
        """Return how much more is right than of the other."""
        gains_N = self.right_N.double() - other.right_N.double()
        total, squares, rows = float(gains_N.sum()), float(gains_N.square().sum()), len(gains_N)
        return Difference(total / rows, *paired_interval(total, squares, rows, level))

    def as_dict(self) -> dict[str, str]:
        """Return what `from_dict` reads."""
        return {"right": "".join(str(int(right)) for right in self.right_N)}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> Self:
        """Read what `as_dict` returned."""
        import torch

        return cls(torch.tensor([int(right) for right in values["right"]]))


@dataclass(frozen=True)
class Means:
    """The parts of a loss: the mean over each row's tokens, and their number."""

    losses_N: "Tensor"
    tokens_N: "Tensor"

    @classmethod
    def mean(cls, models: Sequence[Self]) -> Self:
        """Average over several models."""
        import torch

        return cls(torch.stack([each.losses_N for each in models]).mean(0), models[0].tokens_N)

    def pairs_with(self, other: Self) -> bool:
        """Return whether both are of the same rows, as far as can be seen."""
        return self.tokens_N.equal(other.tokens_N)

    def gain(self, other: Self, level: float = 0.95) -> Difference:
        """Return how much lower the loss is than the other's, with the interval of a ratio whose rows are drawn: as
        wide as they differ from each other."""
        shares_N = self.tokens_N / self.tokens_N.sum()
        gains_N = other.losses_N - self.losses_N
        gain = float((shares_N * gains_N).sum())
        rows = len(gains_N)
        if rows == 1:
            return Difference(gain, -math.inf, math.inf)
        spread = float((shares_N * (gains_N - gain)).square().sum()) * rows / (rows - 1)
        half = student_t(rows - 1, level) * spread**0.5
        return Difference(gain, gain - half, gain + half)

    def as_dict(self) -> dict[str, list[float]]:
        """Return what `from_dict` reads."""
        return {"losses": self.losses_N.tolist(), "tokens": self.tokens_N.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, list[float]]) -> Self:
        """Read what `as_dict` returned."""
        import torch

        return cls(*(torch.tensor(values[key], dtype=torch.float64) for key in ("losses", "tokens")))


Parts = Shares | Means


def paired_gain(ours: Sequence[Parts | None], theirs: Sequence[Parts | None], level: float) -> Difference | None:
    """Return the paired difference of two methods, each averaged over its models; None unless all were scored on the
    same rows."""
    every = [*ours, *theirs]
    first: Any = every[0]
    if not all(each is not None and isinstance(each, type(first)) and first.pairs_with(each) for each in every):
        return None
    return first.mean(ours).gain(first.mean(theirs), level)
