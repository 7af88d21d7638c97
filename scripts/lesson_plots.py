"""The plots of docs/lesson.md, from the tables of docs/ and from runs.

python scripts/lesson_plots.py docs runs/forgetting
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
from forgetting_by_rate import SERIES, folder_of

from inlay.lab.compare.plots import pareto_plot
from inlay.lab.compare.table import Row, Spread, quantities_of
from inlay.methods import METHODS

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402

# As in a comparison's report: colours that the colour-blind can tell apart, and a shape for each.
FAMILIES = {
    "baseline": ("#1a1f25", "D"),
    "selective": ("#00795a", "^"),
    "additive": ("#c44f00", "s"),
    "reparameterized": ("#0072b2", "o"),
    "prompts": ("#a3417a", "v"),
}
SHOWN = (
    "full",
    "lora",
    "houlsby",
    "bitfit",
    "prompt",
    "loha",
)  # of the plot of learning rates, which would be too full
STYLES = (("inlay.show", "page.css"), ("inlay.lab.compare", "compare.css"))
Point = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("docs", type=Path)
    parser.add_argument("forgetting", type=Path, help="what scripts/forgetting_by_rate.py has written")
    asked = parser.parse_args()
    out = asked.docs / "lesson"
    out.mkdir(exist_ok=True)
    results = (asked.docs / "results.md").read_text(encoding="utf-8")
    cost(out, results)
    rates(out, (asked.docs / "learning_rates.md").read_text(encoding="utf-8"))
    cut(out, results)
    for data in SERIES:
        forgetting(out, asked.forgetting, data)


def cost(out: Path, results: str) -> None:
    """As a comparison's report draws it, with the report's colours, light and dark."""
    score, parameters, *_ = (q for q in quantities_of([], "test") if q.key in ("accuracy", "trainable_parameters"))
    rows = []
    for method, *cells in rows_of(results, "## TREC, every method"):
        if method in METHODS:
            seeds = tuple(float(value) / 100 for value in re.findall(r"[\d.]+", cells[1])[2:])
            spreads = {score.key: Spread(values=seeds), parameters.key: Spread(values=(count(cells[3]),))}
            rows.append(Row(label=method, family=METHODS[method].family, runs=(), failures=(), spreads=spreads))
    style = "".join(resources.files(name).joinpath(file).read_text("utf-8") for name, file in STYLES)
    begin = '<svg xmlns="http://www.w3.org/2000/svg" class="plot" font-family="sans-serif" width="720" height="519"'
    drawing = str(pareto_plot(rows, parameters, score).svg()).replace("<svg", begin, 1)
    head, _, body = drawing.partition(">")
    ground = '<rect width="100%" height="100%" style="fill: var(--surface)"/>'
    (out / "cost.svg").write_text(f"{head}><style><![CDATA[{style}]]></style>{ground}{body}\n", encoding="utf-8")
    print(out / "cost.svg")


def rates(out: Path, page: str) -> None:
    with figure(out / "rates.svg", "learning rate", "accuracy on valid of trec, one epoch, %") as axes:
        axes.set_xscale("log")
        for method, *cells in rows_of(page, "# Learning rates"):
            if method in SHOWN:
                points = [(float(r), 100 * float(v)) for r, v in re.findall(r"(\S+) → (\S+)", cells[1])]
                draw(axes, method, points)
                axes.annotate(method, points[-1], (5, -3), textcoords="offset points", fontsize=8)


def cut(out: Path, results: str) -> None:
    with figure(out / "rank.svg", "rank that is left", "accuracy on valid, %") as axes:
        axes.set_xscale("log", base=2)
        ranks = (16, 8, 4, 2, 1)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        for number, (method, *cells) in enumerate(rows_of(results, "## Rank")):
            points = [(rank, 100 * float(cell)) for rank, cell in zip(ranks, cells[1:], strict=True)]
            draw(axes, method, points)
            axes.annotate(
                method, points[-1], (-7, (-7, 3)[number % 2]), textcoords="offset points", fontsize=8, ha="right"
            )


def forgetting(out: Path, runs: Path, data: str) -> None:
    series = SERIES[data]
    share = 100 if series.score == "accuracy" else 1
    name = "accuracy on valid, %" if series.score == "accuracy" else "loss on valid, nats per token"
    lost = "1 - CKA with the base" if series.score == "accuracy" else "loss on general text, nats per token more"
    with figure(out / f"forgetting-{data}.svg", name, lost) as axes:
        if share == 1:
            axes.invert_xaxis()  # better to the right
        for method, tried in series.rates.items():
            made = [(r, folder_of(runs, data, method, r) / "summary.json") for r in tried]
            tried = [r for r, path in made if path.is_file()]
            found = [json.loads(path.read_text(encoding="utf-8")) for _, path in made if path.is_file()]
            if not found:
                continue
            points = [(share * s["metrics"]["tuned"][series.score], s["forgetting"]["value"]) for s in found]
            half = [s["forgetting"]["value"] - s["forgetting"]["interval"][0] for s in found]
            draw(axes, method, points, half)
            for rate, point in zip(tried, points, strict=True):
                axes.annotate(f"{rate:g}", point, (5, -9), textcoords="offset points", fontsize=7)
            axes.annotate(method, points[-1], (5, 4), textcoords="offset points", fontsize=9, fontweight="bold")


@contextmanager
def figure(path: Path, x: str, y: str) -> Any:
    style = {"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "inlay", "font.size": 9}
    with matplotlib.rc_context(style):
        drawing, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        yield axes
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        drawing.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(drawing)
    print(path)


def draw(axes: Any, method: str, points: Sequence[Point], half: Sequence[float] | None = None) -> None:
    colour, marker = FAMILIES[METHODS[method].family]
    x, y = zip(*points, strict=True)
    lines = sum(line.get_color() == colour for line in axes.get_lines())  # of this family, so far
    dashes = ("-", "--", ":")[lines % 3]
    axes.errorbar(
        x, y, half, color=colour, marker=marker, markersize=6, linewidth=1.2, elinewidth=0.8, linestyle=dashes
    )


def rows_of(page: str, heading: str) -> Iterable[list[str]]:
    """The cells of the first table below a heading, without its own heading."""
    below = page.split(heading, 1)[1].split("\n")
    table = [line for line in below[next(i for i, line in enumerate(below) if line.startswith("|")) :]]
    for line in table[2:]:
        if not line.startswith("|"):
            return
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield [first.replace("`", "").partition(",")[0], *cells]


def count(text: str) -> float:
    """1500.0 of `1.50 k`."""
    number, _, unit = text.partition(" ")
    return float(number) * {"": 1, "k": 1e3, "M": 1e6}[unit]


if __name__ == "__main__":
    main()
