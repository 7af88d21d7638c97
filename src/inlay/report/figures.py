"""The report's plots: SVG that takes its colours and its font from the page around it."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ..show.units import Unit, bytes_text, percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]
Formatter = Callable[[float], str]

# Matplotlib wants colours; each of these stands for what the page's style sheet decides.
_INK, _LINE, _TRAIN, _EVALUATION, _BEST, _REFERENCE = (f"#0000{n:02x}" for n in range(1, 7))
_CSS_COLOURS = {
    _INK: "currentColor",
    _LINE: "var(--line)",
    _TRAIN: "var(--train)",
    _EVALUATION: "var(--evaluation)",
    _BEST: "var(--best)",
    _REFERENCE: "var(--muted)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_KEYS = {_TRAIN: "train", _EVALUATION: "evaluation", _BEST: "best"}  # classes of a legend's keys
_MARKERS = {_TRAIN: "", _EVALUATION: "o", _BEST: "D"}  # as in the legend: colours alone do not tell lines apart
_WIDTH_INCHES = 4.8  # small, so that the text stays readable when a phone shows the plot at 330 pixels


@dataclass(frozen=True, kw_only=True)
class Plot:
    title: str
    description: str
    """For those who cannot see it."""
    legend: list[tuple[str, str]]
    """Style-sheet class of the key, and what it stands for."""
    svg: str


def loss_plot(train: Points, evaluation: Points, best_step: int | None) -> Plot:
    smooth = smoothed(train)

    def draw(axes: "Axes") -> None:
        axes.plot(*_columns(train), color=_TRAIN, linewidth=0.8, alpha=0.4, **_dot_if_single(train))
        axes.plot(*_columns(smooth), color=_TRAIN, linewidth=1.8)
        _draw_evaluation(axes, evaluation, best_step)
        axes.set_ylim(bottom=0)

    legend = [("train-raw", "training"), ("train", "smoothed")] if train else []
    return Plot(
        title="Loss",
        description=_described("smoothed training loss", smooth) + _described("evaluation loss", evaluation),
        legend=legend + _evaluation_legend(evaluation, best_step),
        svg=_svg("loss", draw, height=2.9),
    )


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def score_plot(label: str, unit: Unit, evaluation: Points, best_step: int | None, chance: float | None) -> Plot:
    """Plot a score at each evaluation, with what guessing scores."""

    def draw(axes: "Axes") -> None:
        if chance is not None:
            _draw_reference(axes, chance)
        _draw_evaluation(axes, evaluation, best_step)
        if unit.is_share:
            axes.set_ylim(0, 1.02)

    legend = [] if chance is None else [("reference", f"chance, {unit.text(chance)}")]
    return Plot(
        title=f"Evaluation {label}",
        description=_described(f"evaluation {label}", evaluation, unit.text),
        legend=_evaluation_legend(evaluation, best_step) + legend,
        svg=_svg(
            "score", draw, height=2.9, y_text=(lambda share: f"{100 * share:.0f} %") if unit.is_share else unit.text
        ),
    )


def learning_rate_plot(points: Points) -> Plot:
    return _single_plot("Learning rate", points, y_text=_scientific)


def gradient_norm_plot(points: Points) -> Plot:
    return _single_plot("Gradient norm", points)


def speed_plot(points: Points) -> Plot:
    return _single_plot("Tokens per second", points, y_text="{:,.0f}".format)


def memory_plot(points: Points, planned: float | None) -> Plot:
    largest = max([y for _, y in points] + ([planned] if planned else []))
    name, size = ("GiB", 2**30) if largest >= 2**30 else ("MiB", 2**20)
    in_units = [(x, y / size) for x, y in points]  # of bytes, matplotlib would make ticks that are round in decimal
    reference = (f"planned, {bytes_text(planned)}", planned / size) if planned else None
    return _single_plot("Memory", in_units, y_text=lambda value: f"{value:.4g} {name}", reference=reference)


def spectrum_plot(spectra: dict[str, list[Points]]) -> Plot:
    """By role, of each layer: (number, value over the first). The line is the median, the band all layers."""
    colours = dict(zip(spectra, (_TRAIN, _EVALUATION, _BEST), strict=False))
    medians = {role: _across(layers) for role, layers in spectra.items()}

    def draw(axes: "Axes") -> None:
        for role, rows in medians.items():
            numbers = [number for number, _, _, _ in rows]
            least, most = [row[2] for row in rows], [row[3] for row in rows]
            axes.fill_between(numbers, least, most, color=colours[role], alpha=0.13, linewidth=0)
            middle = [row[1] for row in rows]
            style: Any = {"marker": _MARKERS[colours[role]], "markersize": 4.5, "markevery": max(1, len(rows) // 12)}
            axes.plot(numbers, middle, color=colours[role], linewidth=1.8, **style)
        axes.set_ylim(0, 1.02)

    return Plot(
        title="Singular values",
        description="".join(
            f"{role}: the median value {last[0]} is {last[1]:.2f} of the first. "
            for role, rows in medians.items()
            for last in rows[-1:]
        ),
        legend=[(_KEYS[colours[role]], role) for role in spectra],
        svg=_svg("spectra", draw, height=2.9, x_label="singular value, the largest first"),
    )


def curve_plot(
    title: str,
    ranks: Sequence[int],
    points: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
    whole: float,
) -> Plot:
    """A score by rank, from the smallest, with the interval of each; `whole` is the uncut update's."""
    below = [y - low for y, low in zip(points, lower, strict=True)]
    above = [high - y for y, high in zip(points, upper, strict=True)]

    def draw(axes: "Axes") -> None:
        _draw_reference(axes, whole)
        axes.errorbar(
            range(len(ranks)),
            points,
            yerr=[below, above],
            color=_EVALUATION,
            linewidth=1.6,
            marker="o",
            markersize=4.5,
            elinewidth=1.1,
            capsize=3.5,
        )

    shares = title == "Accuracy"
    text: Formatter = percent_text if shares else "{:.4g}".format
    return Plot(
        title=f"{title} by rank",
        description="".join(f"Rank {rank}: {text(y)}. " for rank, y in zip(ranks, points, strict=True))
        + f"Whole: {text(whole)}.",
        legend=[("evaluation", "cut to the rank"), ("reference", f"whole, {text(whole)}")],
        svg=_svg(
            "curve",
            draw,
            height=2.9,
            y_text=(lambda share: f"{100 * share:.0f} %") if shares else "{:g}".format,
            x_label="rank of every layer",
            x_ticks=ranks,
        ),
    )


def smoothed(points: Points) -> Points:
    """An exponential average over about a twelfth of the points, corrected for its start at zero."""
    keep = 1 - 1 / max(3.0, len(points) / 12)
    average, weight, result = 0.0, 0.0, []
    for x, y in points:
        average = keep * average + (1 - keep) * y
        weight = keep * weight + (1 - keep)
        result.append((x, average / weight))
    return result


def _single_plot(
    title: str, points: Points, y_text: Formatter = "{:g}".format, reference: tuple[str, float] | None = None
) -> Plot:
    def draw(axes: "Axes") -> None:
        axes.plot(*_columns(points), color=_TRAIN, linewidth=1.3, **_dot_if_single(points))
        if reference:
            _draw_reference(axes, reference[1])
        axes.set_ylim(0, 1.08 * max(max(_columns(points)[1]), reference[1] if reference else 0) or 1)

    legend = [("train", "measured"), ("reference", reference[0])] if reference else []
    return Plot(
        title=title,
        description=_described(title.lower(), points, y_text),
        legend=legend,
        svg=_svg(title.replace(" ", "-").lower(), draw, height=1.9, y_text=y_text),
    )


def _draw_evaluation(axes: "Axes", points: Points, best_step: int | None) -> None:
    axes.plot(*_columns(points), color=_EVALUATION, linewidth=1.6, marker="o", markersize=4)
    best = [(x, y) for x, y in points if x == best_step]
    if best:
        axes.axvline(best[0][0], color=_BEST, linewidth=1.2, linestyle=(0, (4, 2.5)))
        axes.plot(*_columns(best), color=_BEST, marker="D", markersize=7.5, markeredgewidth=0)


def _draw_reference(axes: "Axes", value: float) -> None:
    axes.axhline(value, color=_REFERENCE, linewidth=1.2, linestyle=(0, (1, 1.5)))


def _evaluation_legend(points: Points, best_step: int | None) -> list[tuple[str, str]]:
    legend = [("evaluation", "evaluation")] if points else []
    return legend + [("best", f"best, step {best_step}") for x, _ in points if x == best_step]


def _svg(
    name: str,
    draw: Callable[["Axes"], None],
    height: float,
    y_text: Formatter = "{:g}".format,
    x_label: str = "step",
    x_ticks: Sequence[int] | None = None,
) -> str:
    """An <svg> element whose ids begin with `name`, so that several fit on one page.

    With `x_ticks`, what is drawn at 0, 1, 2 ... stands above them.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc is for their plots
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["svg.hashsalt"] = f"inlay-{name}"
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x_label)
        if x_ticks is None:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 3, 5, 10]))
        else:
            axes.set_xticks(range(len(x_ticks)), [str(tick) for tick in x_ticks])
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_text(value)))
        axes.tick_params(length=0)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(buffer.getvalue(), name)


def _embedded(svg: str, name: str) -> str:
    """Without what an element inside a page does not need: prologue, metadata, name spaces, a style for everything."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', lambda m: f"{m[1].removeprefix('xlink:')}#{name}-", svg)
    return re.sub("|".join(_CSS_COLOURS), lambda m: _CSS_COLOURS[m[0]], svg)


def _described(what: str, points: Points, y_text: Formatter = "{:.3g}".format) -> str:
    if not points:
        return ""
    (first, start), (last, end) = points[0], points[-1]
    return f"{what[0].upper()}{what[1:]}: {y_text(start)} at step {first:g}, {y_text(end)} at step {last:g}. "


def _across(layers: list[Points]) -> list[tuple[float, float, float, float]]:
    """At each number that any layer has: the median over these layers, the least and the most."""
    found: dict[float, list[float]] = {}
    for points in layers:
        for number, value in points:
            found.setdefault(number, []).append(value)
    return [(number, median(values), min(values), max(values)) for number, values in sorted(found.items())]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _dot_if_single(points: Points) -> dict[str, Any]:
    """A line through one point shows nothing."""
    return {"marker": "o", "markersize": 4} if len(points) == 1 else {}


def _scientific(value: float) -> str:
    """`2e-4` rather than `2e-04`, which is wider and says no more."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10**exponent:.2g}e{exponent}"
