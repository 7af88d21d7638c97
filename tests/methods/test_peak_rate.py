import pytest

import inlay
from inlay.core.method import Method
from inlay.methods import METHODS
from inlay.methods.peak_rate import STEPS, WIDTH, peak_rate, rates_of


class Plain(inlay.LoRA):
    learning_rate = 3e-4


def rate(
    method: type[Method] = inlay.LoRA,
    *,
    writes: bool = False,
    width: int | None = WIDTH,
    steps: int = STEPS,
    labels: int = 2,
) -> float:
    return peak_rate(method, writes=writes, width=width, steps=steps, labels=labels).value


@pytest.mark.parametrize("method", METHODS.values())
def test_a_method_has_its_own_rates_where_they_were_measured(method: type[Method]) -> None:
    assert rate(method) == pytest.approx(rates_of(method).reading, rel=0.05)
    assert rate(method, writes=True) == pytest.approx(rates_of(method).writing, rel=0.05)


def test_a_method_with_one_rate_has_it_for_writing_too() -> None:
    assert rate(Plain, writes=True) == rate(Plain) == 3e-4


def test_a_wider_model_and_a_longer_run_have_a_lower_rate() -> None:
    assert rate(width=4 * WIDTH) == pytest.approx(rate() / 4, rel=0.05)
    assert rate(inlay.Full, width=4 * WIDTH) == pytest.approx(rate(inlay.Full) / 8, rel=0.05)
    assert rate(steps=4 * STEPS) == pytest.approx(rate() / 2, rel=0.05)


def test_more_labels_have_a_higher_rate() -> None:
    assert rate(labels=4) == pytest.approx(1.4 * rate(), rel=0.05)
    assert rate(labels=6) == rate(labels=150) == pytest.approx(1.6 * rate(), rel=0.05)
    assert rate(labels=1) == rate()
    assert rate(labels=6, writes=True) == rate(writes=True)


def test_no_model_and_no_run_takes_the_rate_out_of_reach() -> None:
    assert rate(width=8) == pytest.approx(2 * rate())
    assert rate(steps=1) == rate()
    assert rate(steps=1, writes=True) == pytest.approx(1.6 * rate(writes=True), rel=0.05)
    assert rate(steps=10**7) == pytest.approx(rate() / 3, rel=0.05)
    assert rate(width=10**6) == pytest.approx(rate() / 50, rel=0.05)
    assert rate(width=None) == rate()


def test_the_reason_says_each_part() -> None:
    reason = peak_rate(inlay.LoRA, writes=True, width=768, steps=1000).reason
    assert reason == "0.004 of lora for writing, times 0.5 for a width of 768 and 0.5 for 1000 steps"
    reason = peak_rate(inlay.LoRA, writes=False, width=768, steps=1000, labels=6).reason
    assert reason == "0.001 of lora for reading, times 0.5 for a width of 768, 0.5 for 1000 steps and 1.6 for 6 labels"
