"""Chooses the peak learning rate of a run that asks for none: the method's, for the model's width, the steps and the
labels.

A method has two rates, for tasks that read and tasks that write, measured on models of 384 and 256 features and in 75
to 1,296 steps (docs/learning_rates.md). A step of AdamW changes every number by as much, whatever the width; what it
adds to a layer's outputs grows with the width, so the rate falls with it. It falls with the root of the number of steps
as well: so far does a parameter wander on noise. It rises with the number of labels: the more there are, the more each
row tells.
"""

from dataclasses import dataclass

from ..core.method import Method, Rates
from ..names import listed

WIDTH, STEPS, LABELS = 384, 250, 2  # that the methods' rates are for
_FURTHEST_WIDTH = (1 / 50, 2.0)  # times the rate, at most
_FURTHEST_STEPS = {"reading": (1 / 3, 1.0), "writing": (1 / 3, 1.6)}  # a new head has begun to learn before a step
_FURTHEST_LABELS = (1.0, 1.6)
_WARMUP, _LONGEST_WARMUP = 0.05, 0.2  # shares of the steps: of a run, and for what a method needs in a short one


@dataclass(frozen=True)
class PeakRate:
    """A learning rate, and how it came about."""

    value: float
    reason: str


def peak_rate(
    method: type[Method] | Method, *, writes: bool, width: int | None, steps: int, labels: int = LABELS
) -> PeakRate:
    """Return the rate for a model of this width, a run of so many steps and so many labels, to two digits."""
    rates = rates_of(method)
    own = rates.writing if writes else rates.reading
    by_width = 1.0 if width is None else _within(_FURTHEST_WIDTH, (WIDTH / width) ** rates.width_power)
    task = "writing" if writes else "reading"
    by_steps = _within(_FURTHEST_STEPS[task], (STEPS / steps) ** 0.5)
    by_labels = 1.0 if writes else _within(_FURTHEST_LABELS, (labels / LABELS) ** 0.5)
    factors = [f"{by_width:.2g} for a width of {width or 'unknown'}", f"{by_steps:.2g} for {steps} steps"]
    if by_labels != 1:
        factors.append(f"{by_labels:.2g} for {labels} labels")
    reason = f"{own:g} of {method.name} for {task}, times {listed(factors, 'and')}"
    return PeakRate(float(f"{own * by_width * by_steps * by_labels:.2g}"), reason)


def warmup_steps(method: type[Method] | Method, asked: float | None, steps: int) -> int:
    """Return the steps in which the rate rises: the share that is asked for, else what the method needs.

    AdamW's averages are those of few gradients at first, and its steps as long as the rate whatever the gradient is.
    Some methods lose what tells rows apart in them, and in a short run do not find it again.
    """
    if asked is not None:
        return max(1, round(asked * steps))
    least = min(rates_of(method).warmup_steps, round(_LONGEST_WARMUP * steps))
    return max(1, round(_WARMUP * steps), least)


def rates_of(method: type[Method] | Method) -> Rates:
    """Return a method's rates, whether it has one for every task or two."""
    asked = method.learning_rate
    return asked if isinstance(asked, Rates) else Rates(reading=asked, writing=asked)


def _within(bounds: tuple[float, float], factor: float) -> float:
    return min(max(factor, bounds[0]), bounds[1])
