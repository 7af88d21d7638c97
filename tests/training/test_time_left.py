"""The time that is left of a training, by made-up clocks."""

from collections.abc import Callable

import pytest

from inlay.training.journal import left_text
from inlay.training.time_left import ENOUGH, TimeLeft


class Run:
    """A training whose steps and evaluations take what is said, and what it told after each step."""

    def __init__(
        self,
        step: Callable[[int], float],
        evaluation: float,
        planned: float | None,
        planned_evaluation: float = 0.0,
        evaluate_after: tuple[int, ...] = (25, 50, 75, 100),
        steps: int = 100,
        begins: int = 0,
    ):
        self.now = 1000.0
        self.told: dict[int, float] = {}
        self.rough: dict[int, bool] = {}
        left = TimeLeft(steps, frozenset(evaluate_after), planned, planned_evaluation, clock=lambda: self.now)
        ends: dict[int, float] = {}
        for number in range(begins + 1, steps + 1):
            self.now += step(number)
            left.after(number)
            ends[number], self.told[number], self.rough[number] = self.now, left.seconds, left.is_rough
            if number in evaluate_after:
                self.now += evaluation
        self.true = {number: self.now - end for number, end in ends.items()}

    def off(self, step: int) -> float:
        """How far off the told total of the whole run is, as a share of it."""
        whole = self.now - 1000.0
        return abs(self.told[step] - self.true[step]) / whole


def test_a_plan_that_is_right_is_told_from_the_first_step_on() -> None:
    run = Run(lambda _: 2.0, 30.0, 2.0, 30.0)
    assert run.told == pytest.approx(run.true)
    assert run.told[100] == 30.0  # the last evaluation is still to come


def test_a_first_step_that_takes_long_tells_nothing_of_the_others() -> None:
    run = Run(lambda number: 60.0 if number == 1 else 2.0, 30.0, 2.0, 30.0)
    assert run.told == pytest.approx(run.true)


@pytest.mark.parametrize("planned", [1.0, 4.0])
def test_what_is_measured_takes_the_place_of_a_plan_that_is_wrong(planned: float) -> None:
    run = Run(lambda number: 2.5 if number % 2 else 1.5, 30.0, planned, 30.0)
    assert run.off(5) > run.off(25) > run.off(60)
    assert run.off(25) < 0.1


def test_evaluations_that_were_planned_wrong_are_told_by_those_that_were() -> None:
    run = Run(lambda _: 2.0, 30.0, 2.0, 10.0)
    assert run.told[25] == pytest.approx(run.true[25] - 4 * 20.0)
    assert run.told[60] == pytest.approx(run.true[60])


def test_a_run_that_goes_on_counts_what_is_still_to_come() -> None:
    run = Run(lambda number: 9.0 if number == 51 else 2.0, 30.0, 2.0, 30.0, begins=50)
    assert run.told == pytest.approx(run.true)


def test_without_a_plan_the_first_step_tells_it_until_others_do() -> None:
    run = Run(lambda _: 2.0, 30.0, None)
    assert run.told[1] == 99 * 2.0
    assert run.off(60) < 0.15


def test_it_is_rough_until_enough_steps_are_measured() -> None:
    run = Run(lambda _: 2.0, 30.0, 2.0, 30.0)
    assert [step for step, rough in run.rough.items() if rough] == list(range(1, ENOUGH + 1))
    event = {"seconds_left": 83.0}
    assert left_text(event | {"left_is_rough": True}) == "about 1 min 23 s left"
    assert left_text(event | {"left_is_rough": False}) == left_text(event) == "1 min 23 s left"
