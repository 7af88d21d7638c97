"""Which other defaults cost score on which data: LoRA with one setting changed, beside the defaults.

python scripts/other_settings.py ../shared/data --out runs/settings           goes on where it was stopped
python scripts/other_settings.py ../shared/data --out runs/settings --table   the table in Markdown

600 rows of each set, the default epochs, accuracy on 400 rows of valid, seeds 0, 1 and 2. The rate stays the default
one, which follows the steps; it is for 16 rows a step, so that the other batches have it times the root of their size,
too.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from inlay.data.settings import DataSettings
from inlay.methods import METHODS
from inlay.methods.peak_rate import peak_rate

LoRA = METHODS["lora"]
SETS = ("trec", "cr", "cola", "sst2")
LABELS = {"trec": 6}  # the others have two
SEEDS = (0, 1, 2)
ROWS, EPOCHS = 600, 3
CHANGES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "warm-up of none": {"warmup": 0.0},
    "warm-up of 20 %": {"warmup": 0.2},
    "clipped at 0.3": {"clip": 0.3},
    "clipped at 10": {"clip": 10.0},
    "weight decay of 0.01": {"weight_decay": 0.01},
    "weight decay of 0.1": {"weight_decay": 0.1},
    "8 rows a step": {"batch_size": 8},
    "8 rows a step, rate × 0.7": {"batch_size": 8, "learning_rate": 0.5**0.5},
    "32 rows a step": {"batch_size": 32},
    "32 rows a step, rate × 1.4": {"batch_size": 32, "learning_rate": 2**0.5},
    "2 epochs": {"epochs": 2},
    "6 epochs": {"epochs": 6},
    "alpha of half the rank": {"method": LoRA(alpha=8)},
    "alpha of twice the rank": {"method": LoRA(alpha=32)},
    "dropout of 0.1": {"method": LoRA(dropout=0.1)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    for data in () if asked.table else SETS:
        for change in CHANGES:
            for seed in SEEDS:
                run(asked.data, asked.out, data, change, seed)
    print(table(asked.out))


def run(folder: Path, out: Path, data: str, change: str, seed: int) -> None:
    from inlay.training.run import train
    from inlay.training.settings import RunSettings

    place = out / data / f"{list(CHANGES).index(change)}-{seed}"
    if (place / "summary.json").is_file():
        return
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted run left
    changed = dict(CHANGES[change])
    if factor := changed.get("learning_rate"):
        steps = changed.get("epochs", EPOCHS) * -(-ROWS // changed["batch_size"])
        changed["learning_rate"] = (
            factor * peak_rate(LoRA, writes=False, width=384, steps=steps, labels=LABELS.get(data, 2)).value
        )
    settings: dict[str, Any] = {
        "method": LoRA(),
        "epochs": EPOCHS,
        "evaluations_per_epoch": 2,
        "samples": 0,
        "forgetting": False,
        "data": DataSettings(path=str(folder / data), train_rows=ROWS, eval_rows=400),
    }
    train(RunSettings(model="builtin:minilm", out=str(place), seed=seed, **settings | changed))
    shutil.rmtree(place / "adapter", ignore_errors=True)


def scores(out: Path, data: str, change: str) -> list[float]:
    """Read the accuracies of the seeds, in per cent."""
    places = [out / data / f"{list(CHANGES).index(change)}-{seed}" / "summary.json" for seed in SEEDS]
    done = [json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()]
    return [100 * summary["metrics"]["tuned"]["accuracy"] for summary in done]


def table(out: Path) -> str:
    """Write each set's mean and deviation over the seeds, and the mean of what the change adds."""
    lines = [f"| | {' | '.join(SETS)} | all, beside the defaults |", f"| --- |{' --- |' * (len(SETS) + 1)}"]
    for change in CHANGES:
        cells, gains = list[str](), list[float]()
        for data in SETS:
            found, usual = scores(out, data, change), scores(out, data, "the defaults")
            cells.append(f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}" if len(found) > 1 else "")
            gains += [a - b for a, b in zip(found, usual, strict=False)]
        added = (
            f"{statistics.mean(gains):+.1f} ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if gains[1:] else ""
        )
        lines.append(f"| {change} | {' | '.join(cells)} | {added} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
