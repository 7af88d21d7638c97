"""How good the defaults are on data that nobody tuned on: each method's, beside the best of five learning rates.

python scripts/defaults.py ../shared/data --out runs/defaults        runs what has not been run, and goes on
python scripts/defaults.py ../shared/data --table > docs/defaults.md

`short` has 600 rows of twelve sets and two epochs, `long` whole runs of four sets, since a collapse comes late, and
`writing` 150 steps of a language model on four sets. A default has three seeds (`writing`: one), a rate of the grid
one. Regret is the score of the best rate of the grid less the mean of the default. As the best of five single runs is
lucky, regret is not zero even where the default is the best rate.

The sets in HELD choose nothing: a default is decided on the others, and then looked at on those.
Each run adds its line to docs/defaults.csv. `--share 0/2` and `--share 1/2` divide the runs between two processes;
`--only short`, `--methods lora` and `--data sst2` run a part.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate_learning_rates import MIDDLE

from inlay.data.settings import DataSettings
from inlay.errors import TrainingFailed
from inlay.methods import METHODS
from inlay.methods.peak_rate import peak_rate
from inlay.show.table import Column, Table
from inlay.training.settings import RunSettings

HELD = ("subj", "mpqa", "mrpc", "emotion")
CHOOSING = ("sst2", "cr", "trec", "ag_news", "cola", "rte", "boolq", "banking77")
GRID = (-2, -1, 0, 1, 2)  # half decades from the rate below
CENTRE = MIDDLE | {  # as exponents of ten; they stay when a default changes
    "pattern": -3.5,
    "p-tuning": -1.5,
    "prompt": -1.0,
    "multitask-prompt": -1.0,
}
NEEDED: dict[str, dict[str, dict[str, Any]]] = {  # settings without which a method has nothing to train
    "builtin:minilm": {"pattern": {"include": (r".*\.attention\..*",)}},
    "builtin:tiny-lm": {"pattern": {"include": (r".*\.mlp\..*",)}, "bitfit": {"add_missing": True}},
}
WIDTHS = {"builtin:minilm": 384, "builtin:tiny-lm": 256}
LABELS = {"trec": 6, "emotion": 6, "ag_news": 4, "banking77": 77}  # the other sets have two
_EVALUATED = 1000  # rows of valid or more, where all are taken
DONE = Path(__file__).parent.parent / "docs" / "defaults.csv"


@dataclass(frozen=True)
class Suite:
    """Runs that are alike."""

    model: str
    data: tuple[str, ...]
    score: str
    seeds: tuple[int, ...]  # of the default
    methods: tuple[str, ...] = tuple(CENTRE)
    train_rows: int | None = None
    eval_rows: int | None = None
    epochs: float | None = None
    evaluations_per_epoch: int = RunSettings.evaluations_per_epoch
    higher: int = 0  # half decades that its grid lies above CENTRE

    @property
    def sign(self) -> int:
        return -1 if self.score == "loss" else 1


SUITES = {
    "short": Suite(
        "builtin:minilm",
        CHOOSING + HELD,
        "accuracy",
        (0, 1, 2),
        train_rows=600,
        eval_rows=400,
        epochs=2,
        evaluations_per_epoch=2,  # half of the default: half of a short run is evaluation
    ),
    "long": Suite(
        "builtin:minilm",
        ("sst2", "trec", "cr", "mpqa"),
        "accuracy",
        (0, 1, 2),
        ("lora", "dora", "houlsby", "pfeiffer", "prefix", "full"),
    ),
    "writing": Suite(
        "builtin:tiny-lm",
        ("e2e_nlg", "webnlg", "alpaca", "builtin:captions"),
        "loss",
        (0,),
        train_rows=2400,
        eval_rows=128,
        epochs=1,
        higher=2,
    ),
}


@dataclass(frozen=True)
class Trial:
    """A run of the benchmark."""

    suite: str
    data: str
    method: str
    rate: float | None  # None: the default
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a trial, as a line of docs/defaults.csv."""

    suite: str
    data: str
    method: str
    default: bool
    rate: float
    seed: int
    score: float  # of the best step on valid
    last: float  # of the last step: what a collapse has left
    floor: float  # of the most frequent label; of a language model the loss before training
    returns: int  # times that the guard went back
    steps: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--only", nargs="*", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--methods", nargs="*", default=list(CENTRE))
    parser.add_argument("--data", nargs="*")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    assert CENTRE.keys() == METHODS.keys(), "a method is not in CENTRE"
    if asked.table:
        print(page(outcomes()))
        return
    part, parts = map(int, asked.share.split("/"))
    wanted = [
        trial
        for trial in trials(asked.only)
        if trial.method in asked.methods and (asked.data is None or trial.data in asked.data)
    ]
    done = outcomes()
    for number, trial in enumerate(wanted[part::parts], 1):
        if not is_done(trial, done):
            outcome = run(trial, asked.folder, asked.out)
            add(outcome)
            print(f"{number}/{len(wanted[part::parts])}  {outcome}", flush=True)


def trials(suites: list[str]) -> Iterator[Trial]:
    """Yield every trial: of a data set first the defaults, then the grid."""
    for name in suites:
        suite = SUITES[name]
        for method in suite.methods:
            for data in suite.data:
                yield from (Trial(name, data, method, None, seed) for seed in suite.seeds)
                yield from (Trial(name, data, method, rate, 0) for rate in grid(suite, method))


def grid(suite: Suite, method: str) -> list[float]:
    """Return 1e-3, 3e-3, 1e-2, … around the method's centre."""
    halves = [round(2 * CENTRE[method]) + suite.higher + step for step in GRID]
    return [float(f"{3 if half % 2 else 1}e{half // 2}") for half in halves]


def run(trial: Trial, folder: Path, out: Path) -> Outcome:
    """Train once. A run that fails scores what the model scored before."""
    from inlay.training.run import train

    suite, began = SUITES[trial.suite], time.perf_counter()
    place = out / trial.suite / f"{trial.data.removeprefix('builtin:')}-{trial.method}-{trial.rate}-{trial.seed}"
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted run left
    path = trial.data if trial.data.startswith("builtin:") else str(folder / trial.data)
    settings = RunSettings(
        model=suite.model,
        data=DataSettings(path=path, train_rows=suite.train_rows, eval_rows=suite.eval_rows),
        method=METHODS[trial.method](**NEEDED[suite.model].get(trial.method, {})),
        out=str(place),
        epochs=suite.epochs,
        evaluations_per_epoch=suite.evaluations_per_epoch,
        learning_rate=trial.rate,
        seed=trial.seed,
        samples=0,
        forgetting=False,
    )
    try:
        train(settings)
    except TrainingFailed as problem:
        print(f"{place}: {problem}", flush=True)
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = [event[suite.score] for event in events if event["event"] == "evaluate"]
    before = summary["metrics"]["base"][suite.score]
    tuned = (summary["metrics"]["tuned"] or summary["metrics"]["base"])[suite.score]
    majority = next((event["majority"] for event in events if event["event"] == "data"), None)
    shutil.rmtree(place / "adapter", ignore_errors=True)
    return Outcome(
        trial.suite,
        trial.data,
        trial.method,
        trial.rate is None,
        next(event["learning_rate"] for event in events if event["event"] == "method"),
        trial.seed,
        round(tuned, 4),
        round(evaluated[-1], 4),
        round(before if suite.score == "loss" else (majority or {}).get("valid", before), 4),
        len(summary.get("went_back") or ()),
        next(event["steps"] for event in events if event["event"] == "plan"),
        round(time.perf_counter() - began, 1),
    )


def outcomes() -> list[Outcome]:
    """Read what has been run."""
    if not DONE.is_file():
        return []
    with DONE.open(encoding="utf-8", newline="") as file:
        return [
            Outcome(
                row["suite"],
                row["data"],
                row["method"],
                row["default"] == "True",
                float(row["rate"]),
                int(row["seed"]),
                float(row["score"]),
                float(row["last"]),
                float(row["floor"]),
                int(row["returns"]),
                int(row["steps"]),
                float(row["seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def is_done(trial: Trial, done: list[Outcome]) -> bool:
    """Tell whether the trial has a line: a default's is that of the rate that is the default now."""
    suite, wanted = SUITES[trial.suite], (trial.suite, trial.data, trial.method, trial.seed, trial.rate is None)
    for each in done:
        if (each.suite, each.data, each.method, each.seed, each.default) == wanted:
            writes = suite.score == "loss"
            known: dict[str, Any] = {"width": WIDTHS[suite.model], "labels": LABELS.get(trial.data, 2)}
            now = peak_rate(METHODS[trial.method], writes=writes, steps=each.steps, **known).value
            if each.rate == (now if trial.rate is None else trial.rate):
                return True
    return False


def add(outcome: Outcome) -> None:
    """Append the line, with the head before the first."""
    values, new = vars(outcome), not DONE.is_file()
    with DONE.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(values))
        if new:
            writer.writeheader()
        writer.writerow(values)


def regret(found: list[Outcome], suite: Suite) -> float | None:
    """Return what the best rate has over the default's mean, in points or in percent of the loss; None if not run."""
    defaults, tried = ([each.score for each in found if each.default is kind] for kind in (True, False))
    if not defaults or len(tried) < len(GRID):
        return None
    best, mean = max(tried, key=lambda score: suite.sign * score), statistics.mean(defaults)
    return 100 * (mean / best - 1) if suite.score == "loss" else 100 * (best - mean)


def collapsed(each: Outcome, suite: Suite) -> bool:
    """Tell whether the last step has nothing of what the best one had learned beyond the noise of the rows."""
    gained, left = (suite.sign * (score - each.floor) for score in (each.score, each.last))
    noise = 0.02
    if suite.score == "accuracy":
        noise = 2 * math.sqrt(each.floor * (1 - each.floor) / (suite.eval_rows or _EVALUATED))
    return gained > noise and left < 0.2 * gained


def page(found: list[Outcome]) -> str:
    """Return the Markdown of docs/defaults.md."""
    parts = [_HEAD]
    for name, suite in SUITES.items():
        there = [each for each in found if each.suite == name]
        sets, rows = [data for data in suite.data if data in {each.data for each in there}], []
        for method in [method for method in suite.methods if method in {each.method for each in there}]:
            own = [each for each in there if each.method == method]
            regrets = {data: regret([each for each in own if each.data == data], suite) for data in sets}
            known = [value for value in regrets.values() if value is not None]
            falls = sum(collapsed(each, suite) for each in own if each.default)
            shown = ["" if value is None else f"{value:.1f}" for value in regrets.values()]
            total = [f"{statistics.mean(known):.1f}", f"{max(known):.1f}"] if known else ["", ""]
            rows.append([method, *shown, *total, str(falls) if own else ""])
        columns = [Column(name=head) for head in ("method", *sets, "mean", "worst", "collapses")]
        unit = "percent of the loss" if suite.score == "loss" else "points of accuracy"
        if rows:
            parts += [f"## {name}: regret, in {unit}", Table(columns=columns, rows=rows).markdown()]
    return "\n\n".join(parts)


_HEAD = """# Defaults

How far each method's default is from the best of five learning rates, on data that did not choose it. Made by
`python scripts/defaults.py ../shared/data`, which says how; every run is a line of `defaults.csv`. Methods and data
sets that are missing have not been run, nor have empty cells: lines of classifiers from before a new head began as a
linear classifier were removed ([results.md](results.md#default-rates-by-rule) has what they came to)."""


if __name__ == "__main__":
    main()
