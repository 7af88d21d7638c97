"""What `--forget-at-most` is worth beside a lower rate and an earlier stop, at equal forgetting.

python scripts/forget_at_most.py ../shared/data --out runs/bound           goes on where it was stopped
python scripts/forget_at_most.py ../shared/data --out runs/bound --table   the table in Markdown

The bound of a set is half of what a run without one forgets with seed 3; the runs that are compared have seeds 0, 1
and 2, so that nothing of theirs chose it. All train LoRA for as many steps, and are evaluated and measured as often:

    bound     the step and the scale that stay inside, as the flag has them
    earlier   the best step inside, at its whole scale
    lower     the best step inside of runs at a third and at a tenth of the rate, the better one on valid

What is inside is decided by one half of the passages; the other half says what was forgotten. Scores are of test.
"""

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.data.settings import DataSettings
from inlay.errors import TrainingFailed
from inlay.methods import METHODS
from inlay.methods.peak_rate import peak_rate

SEEDS, CHOOSING_SEED = (0, 1, 2), 3
LOWER = {"lower by 3": 1 / 3, "lower by 10": 1 / 10}  # times the default rate


@dataclass(frozen=True)
class Series:
    model: str
    score: str
    width: int
    train_rows: int
    eval_rows: int
    epochs: int
    labels: int = 2

    @property
    def writes(self) -> bool:
        return self.score == "loss"


SERIES = {
    "trec": Series("builtin:minilm", "accuracy", 384, 1600, 400, 2, labels=6),
    "mpqa": Series("builtin:minilm", "accuracy", 384, 1600, 400, 2),
    "e2e_nlg": Series("builtin:tiny-lm", "loss", 256, 1600, 128, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SERIES), choices=list(SERIES), help="these data sets")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print(table(asked.out, asked.only))
        return
    for data in asked.only:
        most = bound(asked.data, asked.out, data)
        for seed in SEEDS:
            for way in ("bound", "earlier", *LOWER):
                train(asked.data, asked.out, data, way, seed, most)
            print(row(asked.out, data, seed), flush=True)


def bound(folder: Path, out: Path, data: str) -> float:
    """Train without a bound, and take half of what was forgotten, to two digits."""
    summary = train(folder, out, data, "without", CHOOSING_SEED, None)
    return float(f"{summary['forgetting']['value'] / 2:.2g}")


def train(folder: Path, out: Path, data: str, way: str, seed: int, most: float | None) -> dict[str, Any]:
    """Train once, unless it is done, and return the run's summary. A run in which nothing is inside says so in it."""
    from inlay.training import budget
    from inlay.training.run import train as train_run
    from inlay.training.settings import RunSettings

    place, series = out / data / f"{way}-{seed}", SERIES[data]
    if not (place / "summary.json").is_file():
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted run left
        scales = budget.SCALES
        budget.SCALES = scales if way == "bound" else (1.0,)  # a step alone is chosen where the way has no scale
        try:
            train_run(
                RunSettings(
                    model=series.model,
                    data=DataSettings(
                        path=str(folder / data), train_rows=series.train_rows, eval_rows=series.eval_rows
                    ),
                    method=METHODS["lora"](),
                    out=str(place),
                    epochs=series.epochs,
                    learning_rate=_rate(series, way),
                    evaluations_per_epoch=8,
                    forget_at_most=most,
                    seed=seed,
                    samples=0,
                )
            )
        except TrainingFailed as problem:
            print(f"{place}: {problem}", flush=True)
        finally:
            budget.SCALES = scales
        shutil.rmtree(place / "adapter", ignore_errors=True)
    return read(place)


def _rate(series: Series, way: str) -> float:
    steps = series.epochs * math.ceil(series.train_rows / 16)
    known: dict[str, Any] = {"writes": series.writes, "width": series.width, "labels": series.labels}
    default = peak_rate(METHODS["lora"], steps=steps, **known).value
    return default * LOWER.get(way, 1.0)


def read(place: Path) -> dict[str, Any]:
    return json.loads((place / "summary.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Kept:
    """A way's adapter that is inside the bound."""

    valid: float
    test: float
    forgotten: float
    most: float
    how: str


def kept(out: Path, data: str, way: str, seed: int) -> Kept | None:
    """Read what a way kept; None if nothing of it was inside."""
    summary, name = read(out / data / f"{way}-{seed}"), SERIES[data].score
    chosen = summary.get("budget")
    if summary["status"] != "finished" or chosen is None:
        return None
    how = f"step {chosen['step']}" + (f" × {chosen['scale']:g}" if chosen["scale"] != 1 else "")
    metrics = summary["metrics"]
    return Kept(chosen["score"], metrics["test"][name], chosen["checked"], chosen["most"], how)


def lower(out: Path, data: str, seed: int) -> Kept | None:
    """Choose the lower rate that is better on valid."""
    found = [each for each in (kept(out, data, way, seed) for way in LOWER) if each is not None]
    sign = -1 if SERIES[data].writes else 1
    return max(found, key=lambda each: sign * each.valid, default=None)


def row(out: Path, data: str, seed: int) -> str:
    ways = (kept(out, data, "bound", seed), kept(out, data, "earlier", seed), lower(out, data, seed))
    return f"| {data} | {seed} | {' | '.join(_cell(each, data) for each in ways)} |"


def _cell(each: Kept | None, data: str) -> str:
    if each is None:
        return "none inside"
    score = f"{each.test:.3f}" if SERIES[data].writes else f"{100 * each.test:.1f} %"
    return f"{score} ({each.forgotten:.3f}; {each.how})"


def table(out: Path, names: Sequence[str]) -> str:
    lines = ["| data | seed | bound | earlier | lower |", "| --- | --- | --- | --- | --- |"]
    for data in names:
        lines += [row(out, data, seed) for seed in SEEDS]
    lines.append("")
    for data in names:
        bounds = [each for seed in SEEDS if (each := kept(out, data, "bound", seed)) is not None]
        held = sum(each.forgotten <= each.most for each in bounds)
        lines.append(f"{data}: at most {bounds[0].most:g}; kept in {held} of {len(bounds)}.{_gains(out, data)}")
    return "\n".join(lines)


def _gains(out: Path, data: str) -> str:
    """Say how much better the bound is than each other way, mean and deviation over the seeds that have both."""
    sign, said = -1 if SERIES[data].writes else 1, ""
    mine = {seed: kept(out, data, "bound", seed) for seed in SEEDS}
    others = {
        "an earlier step": {seed: kept(out, data, "earlier", seed) for seed in SEEDS},
        "a lower rate": {seed: lower(out, data, seed) for seed in SEEDS},
    }
    for name, theirs in others.items():
        gains = [sign * (a.test - b.test) for seed in SEEDS if (a := mine[seed]) and (b := theirs[seed])]
        spread = f" ± {statistics.stdev(gains):.3f}" if len(gains) > 1 else ""
        said += f" Better than {name} by {statistics.mean(gains):.3f}{spread} ({len(gains)} seeds)." if gains else ""
    return said


if __name__ == "__main__":
    main()
