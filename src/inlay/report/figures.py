"""The plots of a run's page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..show.plots import Chart, Figure, Points, Scale, between, steps
from ..show.units import BYTES, RATE, Unit, number

_SMALL = 160  # pixels of height


@dataclass(frozen=True)
class Level:
    """What is scored without reading the inputs, as a line across a plot."""

    name: str
    score: float

    def draw(self, chart: Chart, unit: Unit) -> None:
        chart.level("reference", self.score, key=f"{self.name}, {unit.text(self.score)}")


def loss_plot(
    train: Points,
    evaluation: Points,
    best_step: int | None,
    level: Level | None,
    went_back: Sequence[int],
) -> Figure:
    """Plot the training loss, as it was and smoothed, with the evaluation loss and the steps it `went_back` after."""
    smooth = smoothed(train)
    chart = _chart([*train, *evaluation], between(0, _most([*train, *evaluation]), number(3)))
    if train:
        chart.line("train faint", train, key="training")
        chart.line("train", smooth, key="smoothed")
    _add_evaluation(chart, evaluation, best_step)
    if level is not None:
        level.draw(chart, number(3))
    for step in went_back:
        chart.upright("reference", step, key="collapsed, went back" if step == went_back[0] else "")
    description = _described("smoothed training loss", smooth) + _described("evaluation loss", evaluation)
    return Figure(title="Loss", description=description, chart=chart)


def score_plot(label: str, unit: Unit, evaluation: Points, best_step: int | None, level: Level | None) -> Figure:
    """Plot a score at each evaluation, with what is scored without reading the inputs."""
    most = 1.02 if unit.is_share else _most([*evaluation, (0, level.score if level else 0)])
    chart = _chart(evaluation, between(0, most, unit))
    _add_evaluation(chart, evaluation, best_step)
    if level is not None:
        level.draw(chart, unit)
    described = _described(f"evaluation {label}", evaluation, unit.text)
    return Figure(title=f"Evaluation {label}", description=described, chart=chart)


def learning_rate_plot(points: Points) -> Figure:
    """Plot the learning rate."""
    return _single("Learning rate", points, number(3), scientific)


def gradient_norm_plot(points: Points) -> Figure:
    """Plot the norm of each step's gradient."""
    return _single("Gradient norm", points, number(3))


def speed_plot(points: Points) -> Figure:
    """Plot how many tokens were trained on in a second."""
    return _single("Tokens per second", points, RATE, RATE.text)


def memory_plot(points: Points, planned: float | None, peak: float | None) -> Figure:
    """Plot the memory after each step, with the peak of the run, which is mostly within a step, and the one planned."""
    levels = [("peak", "peak", peak), ("reference", "planned peak", planned)]
    return _single("Memory", points, BYTES, levels=[(kind, name, at) for kind, name, at in levels if at])


def smoothed(points: Points) -> Points:
    """Return an exponential average over about a twelfth of the points, corrected for its start at zero."""
    keep = 1 - 1 / max(3.0, len(points) / 12)
    average, weight, result = 0.0, 0.0, []
    for x, y in points:
        average = keep * average + (1 - keep) * y
        weight = keep * weight + (1 - keep)
        result.append((x, average / weight))
    return result


def scientific(value: float) -> str:
    """Write `2e-4` rather than `2e-04`, which is wider and says no more."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10**exponent:.2g}e{exponent}"


def _single(
    title: str,
    points: Points,
    unit: Unit,
    text: Callable[[float], str] | None = None,
    levels: Sequence[tuple[str, str, float]] = (),
) -> Figure:
    """Plot one line, from zero, with levels: of each its class, its name and its value."""
    chart = _chart(points, between(0, _most([*points, *((0, at) for _, _, at in levels)]), unit, text), height=_SMALL)
    chart.line("train", points, key="after each step" if levels else "")
    write = text or (unit.text if unit is BYTES else "{:g}".format)
    description = _described(title.lower(), points, write)
    for kind, name, at in levels:
        chart.level(kind, at, key=f"{name}, {unit.text(at)}")
        description += f"{name.capitalize()}: {unit.text(at)}. "
    return Figure(title=title, description=description, chart=chart)


def _chart(points: Points, y: Scale, height: int = 240) -> Chart:
    at = [x for x, _ in points]
    return Chart(steps(min(at), max(at)), y, "step", height=height)


def _most(points: Points) -> float:
    return 1.08 * max(y for _, y in points) or 1.0


def _add_evaluation(chart: Chart, points: Points, best_step: int | None) -> None:
    if points:
        chart.line("evaluation", points, key="evaluation", mark="dot")
    for x, y in points:
        if x == best_step:
            chart.upright("best", x, key=f"best, step {best_step}" if best_step else "best, the start", mark="diamond")
            chart.mark("best", "diamond", chart.place(x, y))


def _described(what: str, points: Points, text: Callable[[float], str] = "{:.3g}".format) -> str:
    if not points:
        return ""
    (first, start), (last, end) = points[0], points[-1]
    return f"{what[0].upper()}{what[1:]}: {text(start)} at step {first:g}, {text(end)} at step {last:g}. "
