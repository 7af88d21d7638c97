"""Short runs of each method at several learning rates, from which each method's default was chosen.

python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates            tries what has not been tried
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates --table    docs/learning_rates.md

What came out is in docs/learning_rates.csv, which each run adds its line to. A method's search starts at the three
rates below, or around the best rate of the data set before, and goes on, a half decade at a time, while the best rate
is the lowest or the highest tried. Rates that these short runs cannot tell apart are tried in whole runs.
`--only e2e_nlg` tries rates on that data set; `--share 0/2` and `--share 1/2` divide the methods between two processes.
"""

import argparse
import csv
import math
import shutil
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.data.settings import DataSettings
from inlay.errors import TrainingFailed
from inlay.methods import METHODS


@dataclass(frozen=True)
class Trial:
    """What a rate is tried on."""

    data: str
    model: str
    score: str  # on valid, of the best evaluation
    epochs: float | None = None  # None: the method's own
    train_rows: int | None = None
    eval_rows: int | None = None
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings that differ from the defaults
    higher: float = 0.0  # decades by which the search starts above MIDDLE

    @property
    def sign(self) -> int:
        return -1 if self.score == "loss" else 1


CHOOSING = {  # 305 and 216 steps of 16 rows: from these the defaults are chosen
    "trec": Trial("trec", "builtin:minilm", "accuracy", 1.0),
    "sst2": Trial("sst2", "builtin:minilm", "accuracy", 0.5),
}
WHOLE = "trec-whole"  # what decides between rates that are close
TRIALS = {
    **CHOOSING,
    WHOLE: Trial("trec", "builtin:minilm", "accuracy"),
    "e2e_nlg": Trial(  # 100 steps
        "e2e_nlg",
        "builtin:tiny-lm",
        "loss",
        epochs=1.0,
        train_rows=1600,
        eval_rows=128,
        methods={"bitfit": {"add_missing": True}},
        higher=1.0,
    ),
}
SEARCHED = [name for name in TRIALS if name != WHOLE]
TRIED = Path(__file__).parent.parent / "docs" / "learning_rates.csv"
MIDDLE = {  # exponents of ten: the search starts here and a half decade to either side
    "full": -4.0,
    "bitfit": -2.5,
    "norm": -2.5,
    "last-layers": -3.5,
    "sparse": -3.0,
    "houlsby": -3.0,
    "pfeiffer": -3.0,
    "parallel": -3.0,
    "ia3": -2.0,
    "lora": -3.0,
    "dora": -3.0,
    "adalora": -2.5,
    "dynamic-rank": -2.5,
    "loha": -2.5,
    "lokr": -2.5,
    "vera": -2.0,
    "oft": -3.0,
    "prompt": -1.5,
    "p-tuning": -3.0,
    "multitask-prompt": -1.5,
    "prefix": -2.0,
}
UNTRIED = {"pattern": "depends on what the pattern selects; it has the rate of `full`"}
CLOSE = 0.01  # of mean accuracy, whose standard error here is 0.8 points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=list(MIDDLE))
    parser.add_argument("--only", nargs="*", default=SEARCHED, choices=SEARCHED, help="these data sets")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    assert MIDDLE.keys() | UNTRIED.keys() == METHODS.keys(), "a method is in neither MIDDLE nor UNTRIED"
    if asked.table:
        print(_page())
        return
    part, parts = map(int, asked.share.split("/"))
    best = dict(MIDDLE)
    for data in asked.only:
        for method in asked.methods[part::parts]:
            best[method] = _search(asked.data, data, method, best[method], asked.out)
    for method in asked.methods[part::parts] if set(CHOOSING) <= set(asked.only) else ():
        decide(asked.data, method, asked.out)


def decide(folder: Path, method: str, out: Path) -> None:
    """Whole runs of the rates that the short ones leave open."""
    rates = close(method)
    for rate in rates if len(rates) > 1 else ():
        _score(folder, WHOLE, method, rate, out)


def _search(folder: Path, data: str, method: str, middle: float, out: Path) -> float:
    """The exponent of the best rate."""
    trial = TRIALS[data]
    middle += trial.higher

    def worth(exponent: float) -> float:
        return trial.sign * _score(folder, data, method, _rate(exponent), out)

    found = {exponent: worth(exponent) for exponent in (middle - 0.5, middle, middle + 0.5)}
    while (best := max(found, key=lambda e: found[e])) in (edge := (min(found), max(found))):
        beyond = best - 0.5 if best == edge[0] else best + 0.5
        found[beyond] = worth(beyond)
    return best


def _score(folder: Path, name: str, method: str, rate: float, out: Path) -> float:
    """On valid, of the best evaluation; the worst there is for a run that failed."""
    from inlay.training.run import train
    from inlay.training.settings import RunSettings

    if (known := tried(name, method).get(rate)) is not None:
        return known
    trial, run = TRIALS[name], out / name / f"{method}@{rate:g}"
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted run left
    settings = RunSettings(
        model=trial.model,
        data=DataSettings(path=str(folder / trial.data), train_rows=trial.train_rows, eval_rows=trial.eval_rows),
        method=METHODS[method](**trial.methods.get(method, {})),
        out=str(run),
        epochs=trial.epochs,
        learning_rate=rate,
        samples=0,
        forgetting=False,
    )
    try:
        score = train(settings)["metrics"]["tuned"][trial.score]
    except TrainingFailed as problem:
        print(f"{run}: {problem}", flush=True)
        score = 0.0 if trial.sign > 0 else math.inf
    with TRIED.open("a", encoding="utf-8") as file:
        file.write(f"{name},{method},{rate:g},{score:.4f}\n")
    print(f"{name} {method} {rate:g}: {trial.score} {score:.4f}", flush=True)
    return score


def _rate(exponent: float) -> float:
    """1e-3, 3e-3, 1e-2, ... from -3, -2.5, -2, ..."""
    whole = math.floor(exponent)
    return float(f"{1 if exponent == whole else 3}e{whole}")


def tried(name: str, method: str) -> dict[float, float]:
    """The score of each rate, from the lowest on."""
    with TRIED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["tried on"], row["method"]) == (name, method)]
    return {rate: score for rate, score in sorted((float(row["rate"]), float(row["score"])) for row in rows)}


def close(method: str) -> list[float]:
    """Of the rates tried on all data sets that choose, those whose mean accuracy is close to the best."""
    scores = [tried(name, method) for name in CHOOSING]
    common = set.intersection(*(set(rates) for rates in scores))
    means = {rate: statistics.mean(rates[rate] for rates in scores) for rate in common}
    return sorted(rate for rate, mean in means.items() if mean >= max(means.values()) - CLOSE)


def _page() -> str:
    """The Markdown of docs/learning_rates.md."""
    lines = [_HEAD]
    for method in METHODS:
        default = f"{METHODS[method].learning_rate:g}"
        if method in UNTRIED:
            lines.append(f"| {method} | {default} | {UNTRIED[method]} | | | |")
            continue
        columns = [tried(name, method) for name in TRIALS]
        cells = [" · ".join(f"{rate:g} → {value:.3f}" for rate, value in c.items()) for c in columns]
        lines.append(f"| {method} | {default} | {' | '.join(cells)} |")
    return "\n".join(lines)


_HEAD = """# Learning rates

The default of each method, for AdamW at 16 rows a step, and what it was chosen from: accuracy on `valid` after short
runs of `builtin:minilm` with seed 0, one epoch of `trec` and half an epoch of `sst2`. The best mean counts. Where
others are within one point of it, which is noise (one seed, 501 and 872 rows), whole runs on `trec` decide. At chance
`trec` has 0.23 and `sst2` 0.51.

Three differ. `full` has 5e-5, between two of the rates here, because on the whole of `sst2` it was better than 1e-4
(0.884 against 0.861 when that was stopped). `prefix` takes ten epochs, for which 2e-2 was better than 3e-2 (0.958 and
0.950 on `valid` of `trec`). `dynamic-rank` has 3e-3, as 1e-2 fails on the whole of `sst2` (0.654).

`e2e_nlg` chooses nothing: it is the loss on `valid` of `builtin:tiny-lm` after 100 steps, one epoch of 1,600 rows
(before, it is 5.014 on these 128), to see how far a rate that is right for a classifier is from one that is right for
writing. All but `prompt` and `p-tuning`, which hardly learn, are best at three to sixty times their default: so small a
model, and so few steps, want it. `bitfit` adds the biases that the model lacks. An empty cell was not tried.

```sh
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates --table > docs/learning_rates.md
```

| method | default | trec, 1 epoch | sst2, ½ epoch | trec, whole run | e2e_nlg, loss |
|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
