import pytest

import inlay
from inlay.core.method import Method
from inlay.methods import METHODS
from inlay.methods.peak_rate import STEPS, WIDTH, peak_rate


class Plain(inlay.LoRA):
    writing_rate = None


def rate(
    method: type[Method] = inlay.LoRA, *, writes: bool = False, width: int | None = WIDTH, steps: int = STEPS
) -> float:
    return peak_rate(method, writes=writes, width=width, steps=steps).value


@pytest.mark.parametrize("method", METHODS.values())
def test_a_method_has_its_own_rates_where_they_were_measured(method: type[Method]) -> None:
    assert rate(method) == pytest.approx(method.learning_rate, rel=0.05)
    assert method.writing_rate is not None
    assert rate(method, writes=True) == pytest.approx(method.writing_rate, rel=0.05)


def test_a_method_with_one_rate_has_it_for_writing_too() -> None:
    assert rate(Plain, writes=True) == rate(Plain) == inlay.LoRA.learning_rate


def test_a_wider_model_and_a_longer_run_have_a_lower_rate() -> None:
    assert rate(width=4 * WIDTH) == pytest.approx(rate() / 4, rel=0.05)
    assert rate(inlay.Full, width=4 * WIDTH) == pytest.approx(rate(inlay.Full) / 8, rel=0.05)
    assert rate(steps=4 * STEPS) == pytest.approx(rate() / 2, rel=0.05)


def test_no_model_and_no_run_takes_the_rate_out_of_reach() -> None:
    assert rate(width=8) == rate(steps=1) == pytest.approx(2 * rate())
    assert rate(steps=10**7) == pytest.approx(rate() / 3, rel=0.05)
    assert rate(width=10**6) == pytest.approx(rate() / 50, rel=0.05)
    assert rate(width=None) == rate()


def test_the_reason_says_each_part() -> None:
    reason = peak_rate(inlay.LoRA, writes=True, width=768, steps=1000).reason
    assert reason == "0.005 of lora for writing, times 0.5 for a width of 768 and 0.5 for 1000 steps"
