"""Whether ranks by layer that are suggested before training do better than one rank everywhere in as many parameters.

python scripts/rank_suggestion.py ../shared/data --out runs/ranks      goes on where it was stopped

LoRA on trec and e2e_nlg at ranks so small that their distribution can matter; the suggestion is made anew for every
seed, from the activations and from the first gradients.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

SEEDS = (0, 1, 2)
SUGGESTED = ("activations", "gradients")


@dataclass(frozen=True)
class Series:
    model: str
    score: str
    settings: tuple[str, ...]


SERIES = {
    "trec": Series("builtin:minilm", "accuracy", ("--epochs", "1")),
    "e2e_nlg": Series(  # 100 steps, for which LoRA wants a higher rate (docs/learning_rates.md)
        "builtin:tiny-lm",
        "loss",
        (
            *("--data.train-rows", "1600", "--data.eval-rows", "256"),
            *("--epochs", "1", "--learning-rate", "0.003", "--samples", "0"),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SERIES), choices=list(SERIES), help="these data sets")
    parser.add_argument("--ranks", nargs="*", type=int, default=[2])
    asked = parser.parse_args()
    for name in asked.only:
        for rank in asked.ranks:
            _compare(name, rank, asked.data / name, asked.out)


def _compare(name: str, rank: int, data: Path, out: Path) -> None:
    """Print the scores of all seeds, and how far each suggestion is from one rank everywhere, seed by seed."""
    series = SERIES[name]
    found: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for seed in SEEDS:
        for ranks in ("uniform", *SUGGESTED):
            folder = out / f"{name}-{ranks}-{rank}-{seed}"
            summary = _trained(series, data, folder, ranks, rank, seed)
            found[ranks].append(summary["metrics"]["test"][series.score])
            sizes[ranks] = summary["trainable_parameters"]
            print(f"{folder.name}: {series.score} {found[ranks][-1]:.4f}", flush=True)
    print(f"{name}, rank {rank}: {series.score} on test")
    for ranks, values in found.items():
        gains = [value - uniform for value, uniform in zip(values, found["uniform"], strict=True)]
        print(
            f"  {ranks:<12} {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}   {sizes[ranks]} parameters"
            + (
                ""
                if ranks == "uniform"
                else f"   {statistics.mean(gains):+.4f} ± {statistics.stdev(gains):.4f} of uniform"
            )
        )


def _trained(series: Series, data: Path, folder: Path, ranks: str, rank: int, seed: int) -> dict:
    """The run's summary; made first, if there is none yet."""
    if not (folder / "summary.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        common = ["--seed", str(seed), "--out", str(folder), *series.settings]
        if ranks == "uniform":
            _inlay("train", series.model, str(data), "--method", "lora", "--method.rank", str(rank), *common)
        else:
            suggestion = folder.with_name(f"{folder.name}-suggestion")
            shutil.rmtree(suggestion, ignore_errors=True)
            wanted = ["--from", ranks, "--rank", str(rank), "--seed", str(seed), "--out", str(suggestion)]
            _inlay("rank", series.model, str(data), *wanted)
            _inlay("train", "--config", str(suggestion / "suggested.yaml"), *common)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def _inlay(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "inlay", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
