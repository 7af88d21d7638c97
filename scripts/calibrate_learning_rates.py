"""Short runs of each method at several learning rates, from which each method's default was chosen.

python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates            goes on where it was stopped
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates --table    docs/learning_rates.md

A method's search starts at the three rates below, or around the best rate of the data set before, and goes on, a half
decade at a time, while the best rate is the lowest or the highest tried. Rates that these short runs cannot tell apart
are tried in whole runs. `--only e2e_nlg` tries rates on that data set; `--share 0/2` and `--share 1/2` divide the
methods between two processes.
"""

import argparse
import json
import math
import shutil
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.data.settings import DataSettings
from inlay.data.source import open_splits
from inlay.errors import TrainingFailed
from inlay.methods import METHODS


@dataclass(frozen=True)
class Trial:
    """What a rate is tried on."""

    model: str
    score: str  # on valid, of the best evaluation
    epochs: float | None = None  # None: the method's own
    rows: dict[str, int] | None = None  # this many of a split, evenly spread, and no others; None: all
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings that differ from the defaults

    @property
    def sign(self) -> int:
        return -1 if self.score == "loss" else 1


CHOOSING = {  # 305 and 216 steps of 16 rows: from these the defaults are chosen
    "trec": Trial("builtin:minilm", "accuracy", 1.0),
    "sst2": Trial("builtin:minilm", "accuracy", 0.5),
}
TRIALS = {
    **CHOOSING,
    "e2e_nlg": Trial("builtin:tiny-lm", "loss", 1.0, {"train": 1600, "valid": 128}, {"bitfit": {"add_missing": True}}),
}  # 100 steps
WHOLE = "trec"  # the data of the whole runs
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
    parser.add_argument("--only", nargs="*", default=list(TRIALS), choices=list(TRIALS), help="these data sets")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    assert MIDDLE.keys() | UNTRIED.keys() == METHODS.keys(), "a method is in neither MIDDLE nor UNTRIED"
    if asked.table:
        print(_page(asked.out))
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
    rates = close(tried(method, out))
    whole = Trial(CHOOSING[WHOLE].model, CHOOSING[WHOLE].score)
    for rate in rates if len(rates) > 1 else ():
        _score(folder, WHOLE, whole, method, rate, out / "whole")


def _search(folder: Path, data: str, method: str, middle: float, out: Path) -> float:
    """The exponent of the best rate."""
    trial = TRIALS[data]

    def worth(exponent: float) -> float:
        return trial.sign * _score(folder, data, trial, method, _rate(exponent), out)

    found = {exponent: worth(exponent) for exponent in (middle - 0.5, middle, middle + 0.5)}
    while (best := max(found, key=lambda e: found[e])) in (edge := (min(found), max(found))):
        beyond = best - 0.5 if best == edge[0] else best + 0.5
        found[beyond] = worth(beyond)
    return best


def _score(folder: Path, data: str, trial: Trial, method: str, rate: float, out: Path) -> float:
    """On valid, of the best evaluation; the worst there is for a run that failed."""
    from inlay.training.run import train
    from inlay.training.settings import RunSettings

    run = out / data / f"{method}@{rate:g}"
    if not (run / "summary.json").is_file():
        shutil.rmtree(run, ignore_errors=True)  # what an interrupted run left
        settings = RunSettings(
            model=trial.model,
            data=DataSettings(path=str(folder / data if trial.rows is None else _fewer(folder, data, trial.rows, out))),
            method=METHODS[method](**trial.methods.get(method, {})),
            out=str(run),
            epochs=trial.epochs,
            learning_rate=rate,
            samples=0,
            forgetting=False,
        )
        try:
            train(settings)
        except TrainingFailed as problem:
            print(f"{run}: {problem}", flush=True)
    score = _result(run, trial)
    print(f"{run.parent} {method} {rate:g}: {trial.score} {score:.4f}", flush=True)
    return score


def _fewer(folder: Path, data: str, rows: dict[str, int], out: Path) -> Path:
    """A folder with some rows of each split."""
    fewer = out / f"{data}-rows"
    fewer.mkdir(parents=True, exist_ok=True)
    for split, count in rows.items():
        lines = [json.dumps(row.values, ensure_ascii=False) + "\n" for row in open_splits(str(folder / data))[split]]
        (fewer / f"{split}.jsonl").write_text("".join(lines[:: len(lines) // count][:count]), encoding="utf-8")
    return fewer


def _rate(exponent: float) -> float:
    """1e-3, 3e-3, 1e-2, ... from -3, -2.5, -2, ..."""
    whole = math.floor(exponent)
    return float(f"{1 if exponent == whole else 3}e{whole}")


def _result(run: Path, trial: Trial) -> float:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    failed = 0.0 if trial.sign > 0 else math.inf
    return summary["metrics"]["tuned"][trial.score] if summary["status"] == "finished" else failed


def tried(method: str, out: Path) -> dict[str, dict[float, float]]:
    """The accuracy of each rate on each data set that chooses."""
    return {data: _rates(method, out / data, trial) for data, trial in CHOOSING.items()}


def close(tried: dict[str, dict[float, float]]) -> list[float]:
    """Of the rates tried on all data sets, those whose mean accuracy is close to the best."""
    common = set.intersection(*(set(rates) for rates in tried.values()))
    means = {rate: statistics.mean(rates[rate] for rates in tried.values()) for rate in common}
    return sorted(rate for rate, mean in means.items() if mean >= max(means.values()) - CLOSE)


def chosen(method: str, out: Path) -> float:
    whole = _rates(method, out / "whole" / WHOLE, CHOOSING[WHOLE])
    return max(whole, key=lambda rate: whole[rate]) if whole else close(tried(method, out))[0]


def _rates(method: str, folder: Path, trial: Trial) -> dict[float, float]:
    runs = [run for run in folder.glob(f"{method}@*") if (run / "summary.json").is_file()]
    return {float(run.name.partition("@")[2]): _result(run, trial) for run in runs}


def _page(out: Path) -> str:
    """The Markdown of docs/learning_rates.md."""
    lines = [_HEAD]
    for method in METHODS:
        default = f"{METHODS[method].learning_rate:g}"
        if method in UNTRIED:
            lines.append(f"| {method} | {default} | {UNTRIED[method]} | | | |")
            continue
        columns = [
            *tried(method, out).values(),
            _rates(method, out / "whole" / WHOLE, CHOOSING[WHOLE]),
            _rates(method, out / "e2e_nlg", TRIALS["e2e_nlg"]),
        ]
        cells = [" · ".join(f"{rate:g} → {value:.3f}" for rate, value in sorted(c.items())) for c in columns]
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

`e2e_nlg` chooses nothing: it is the loss on `valid` of `builtin:tiny-lm` after 100 steps (one
epoch of 1,600 of its rows; the 128 of `valid` have 5.06 before), to see how far a
rate that is right for classification is from one that is right for writing. An empty cell was not tried.

```sh
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates
python scripts/calibrate_learning_rates.py ../shared/data --out runs/rates --table > docs/learning_rates.md
```

| method | default | trec, 1 epoch | sst2, ½ epoch | trec, whole run | e2e_nlg, loss |
|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
