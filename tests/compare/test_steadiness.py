"""Which methods differ from seed to seed more than others."""

import numpy as np
import pytest

from inlay.lab.compare.steadiness import unsteady
from inlay.stats import fisher_f


def test_the_bound_is_cochrans() -> None:
    """His C = largest / sum is 0.8709 for 3 variances of 3 values at 95 % (the printed tables)."""
    f = fisher_f(2, 4, 1 - 0.05 / 3)
    assert 1 / (1 + 2 / f) == pytest.approx(0.8709, abs=1e-4)
    below, above = ((c / (1 - c) * 2) ** 0.5 for c in (0.8699, 0.8719))
    for factor, found in ((below, []), (above, ["c"])):
        assert unsteady({"a": (1, 2, 3), "b": (4, 5, 6), "c": (0, factor, 2 * factor)}) == found


def test_of_methods_alike_hardly_ever_is_one_called_unsteady() -> None:
    noise = np.random.default_rng(0)
    found = sum(bool(unsteady({str(i): list(noise.normal(0, 1, 3)) for i in range(5)})) for _ in range(1000))
    assert 30 <= found <= 70


def test_several_are_found_one_after_the_other() -> None:
    scores = {
        "a": (1.0, 1.1, 0.9),
        "b": (0.9, 1.0, 1.0),
        "c": (5.0, 9.0, 1.0),
        "d": (1.0, 1.1, 1.0),
        "e": (0.0, 90.0, 9.0),
    }
    assert unsteady(scores) == ["e", "c"]
    assert unsteady({"a": (1.0,), "b": (1.0, 9.0)}) == []
    assert unsteady({}) == []
