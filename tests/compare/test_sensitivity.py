import math

import pytest

from inlay.lab.compare.search import TriedRate
from inlay.lab.compare.sensitivity import sensitivities


def tried(label: str, *found: tuple[float, float | None]) -> list[TriedRate]:
    return [TriedRate(label=label, learning_rate=rate, score=score) for rate, score in found]


def test_the_most_sensitive_method_comes_first() -> None:
    flat = tried("ia3", (1e-3, 0.89), (1e-2, 0.90), (1e-1, 0.895))
    steep = tried("lora", (1e-2, 0.50), (1e-3, 0.90), (1e-4, 0.70))
    first, second = sensitivities([*flat, *steep], is_share=True)
    assert (first.label, first.best, first.lowest, first.highest, first.factor) == ("lora", 1e-3, 1e-3, 1e-3, 1)
    assert first.worst == pytest.approx(0.4)
    assert (second.label, second.lowest, second.highest) == ("ia3", 1e-3, 1e-1)
    assert second.factor == pytest.approx(100)


def test_what_lies_beyond_a_bad_rate_is_not_as_good() -> None:
    (found,) = sensitivities(tried("lora", (1e-4, 0.9), (1e-3, 0.9), (3e-3, 0.5), (1e-2, 0.9)), is_share=True)
    assert (found.lowest, found.highest) == (1e-4, 1e-3)


def test_losses_count_by_their_share_and_a_failed_run_as_the_worst() -> None:
    rates = tried("full", (1e-4, -2.0), (1e-3, -2.03), (1e-2, -2.1), (1e-1, None))
    (found,) = sensitivities(rates, is_share=False)
    assert (found.lowest, found.highest, found.worst) == (1e-4, 1e-3, math.inf)


def test_of_equal_rates_the_best_is_the_one_that_the_runs_have() -> None:
    (found,) = sensitivities(tried("lora", (1e-3, 0.9), (1e-4, 0.9), (1e-2, 0.7)), is_share=True)
    assert (found.best, found.lowest, found.highest) == (1e-3, 1e-4, 1e-3)


def test_two_rates_say_nothing() -> None:
    assert sensitivities(tried("lora", (1e-4, 0.9), (1e-3, 0.8)), is_share=True) == []
    assert sensitivities(tried("lora", (1e-4, None), (1e-3, None), (1e-2, None)), is_share=True) == []
