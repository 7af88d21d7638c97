"""What a method forgets for what it learns, at several learning rates: one point of docs/lesson.md's plot each.

python scripts/forgetting_by_rate.py ../shared/data --out runs/forgetting           goes on where it was stopped
python scripts/forgetting_by_rate.py ../shared/data --out runs/forgetting --table   the table in Markdown

A method at one rate is one point; another method's point at another score says nothing about the two. So each has a
curve, and methods are compared where their scores are equal. `--share 0/2` and `--share 1/2` divide the runs.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.data.settings import DataSettings
from inlay.methods import METHODS


@dataclass(frozen=True)
class Series:
    model: str
    score: str  # on valid
    rates: dict[str, tuple[float, ...]]
    train_rows: int | None = None
    eval_rows: int | None = None


SERIES = {  # one epoch: 305 and 100 steps of 16 rows
    "trec": Series(
        "builtin:minilm",
        "accuracy",
        {"full": (1e-5, 3e-5, 1e-4, 3e-4), "lora": (1e-4, 3e-4, 1e-3), "bitfit": (1e-3, 3e-3, 1e-2)},
    ),
    "e2e_nlg": Series(
        "builtin:tiny-lm",
        "loss",
        {"full": (1e-4, 3e-4, 1e-3, 3e-3), "lora": (1e-3, 3e-3, 1e-2), "pfeiffer": (3e-3, 1e-2)},
        train_rows=1600,
        eval_rows=128,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SERIES), choices=list(SERIES), help="these data sets")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    part, parts = map(int, asked.share.split("/"))
    runs = [(d, m, rate) for d in asked.only for m, rates in SERIES[d].rates.items() for rate in rates]
    for data, method, rate in runs if asked.table else runs[part::parts]:
        run = folder_of(asked.out, data, method, rate)
        if not asked.table:
            _train(asked.data, data, method, rate, run)
        print(_line(data, method, rate, run), flush=True)


def folder_of(out: Path, data: str, method: str, rate: float) -> Path:
    return out / data / f"{method}@{rate:g}"


def _train(folder: Path, data: str, method: str, rate: float, run: Path) -> None:
    from inlay.training.run import train
    from inlay.training.settings import RunSettings

    if (run / "summary.json").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted run left
    series = SERIES[data]
    settings: RunSettings[Any] = RunSettings(
        model=series.model,
        data=DataSettings(path=str(folder / data), train_rows=series.train_rows, eval_rows=series.eval_rows),
        method=METHODS[method](),
        out=str(run),
        epochs=1,
        learning_rate=rate,
        samples=0,
    )
    train(settings)


def _line(data: str, method: str, rate: float, run: Path) -> str:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    score, kept = summary["metrics"]["tuned"][SERIES[data].score], summary["forgetting"]
    low, high = kept["interval"]
    probe = f"{100 * kept['probe_tuned']:.0f} %" if kept.get("probe_tuned") is not None else ""
    return f"| {data} | `{method}` | {rate:g} | {score:.3f} | {kept['value']:.3f} ({low:.3f} to {high:.3f}) | {probe} |"


if __name__ == "__main__":
    main()
