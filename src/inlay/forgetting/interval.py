"""95 % intervals over passages, by the jackknife.   https://doi.org/10.1214/aoms/1177706647

Everything that is reported is computed again without each passage in turn. The variance is (n - 1)/n times the sum of
squares of what these n values differ by, and the interval is that of Student's t with n - 1 degrees of freedom. Unlike
a bootstrap it draws nothing, and has no passage twice, which would look like a pair that is perfectly alike to CKA.
"""

import math

from torch import Tensor

from ..stats import student_t

Interval = tuple[float, float]


def jackknife_interval(estimate: float, without_N: Tensor) -> Interval:
    """The interval around `estimate`, given its value without each of the N passages."""
    n = len(without_N)
    variance = (n - 1) / n * (without_N - without_N.mean()).square().sum().item()
    half = student_t(n - 1) * math.sqrt(variance)
    return estimate - half, estimate + half


def ratio(totals_N: Tensor, counts_N: Tensor) -> tuple[float, Interval]:
    """The mean of all things that the passages are made of, such as tokens, from each passage's total and count."""
    total, count = totals_N.sum(), counts_N.sum()
    estimate = (total / count).item()
    return estimate, jackknife_interval(estimate, (total - totals_N) / (count - counts_N))
