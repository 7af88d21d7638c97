"""Whether what several tasks share helps a small target: multitask-prompt, with sources, against prompt from scratch.

python scripts/multitask_transfer.py ../shared/data --out runs/multitask      goes on where it was stopped

The target has 32 rows of each class, drawn with the run's seed, and all of its valid and test rows. The sources are
learned once. Both methods take 30 epochs, and otherwise their defaults.
"""

import argparse
import gzip
import json
import random
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

SOURCES, TARGET = ("sst2", "trec", "subj"), "cr"
ROWS_PER_CLASS, SEEDS, EPOCHS = 32, (0, 1, 2), "30"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    learned = asked.out / "multitask-prompt-0" / "sources"
    for seed in SEEDS:
        target = _few(asked.data / TARGET, asked.out / f"{TARGET}-{seed}", seed)
        given = (
            ["--method.source", str(learned)] if learned.with_name("summary.json").is_file() else ["--method.sources"]
        )
        given += [] if given[0] == "--method.source" else [str(asked.data / name) for name in SOURCES]
        for name, method in {"multitask-prompt": ["multitask-prompt", *given], "prompt": ["prompt"]}.items():
            folder = asked.out / f"{name}-{seed}"
            if not (folder / "summary.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
                command = [sys.executable, "-m", "inlay", "train", "builtin:minilm", str(target), "--method", *method]
                command += ["--epochs", EPOCHS, "--seed", str(seed), "--out", str(folder)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            found[name].append(summary["metrics"]["test"]["accuracy"])
            print(f"{name} seed {seed}: test accuracy {found[name][-1]:.4f}", flush=True)
    for name, values in found.items():
        print(f"{name}: {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}")


def _few(data: Path, folder: Path, seed: int) -> Path:
    """A copy of the data with a few rows of each class in train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        rows = [json.loads(line) for line in _text(data, split).splitlines()]
        if split == "train":
            by_label = defaultdict(list)
            for row in rows:
                by_label[row["label"]].append(row)
            draw = random.Random(seed)
            rows = [row for label in sorted(by_label) for row in draw.sample(by_label[label], ROWS_PER_CLASS)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _text(data: Path, split: str) -> str:
    plain = data / f"{split}.jsonl"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    return gzip.decompress(plain.with_name(f"{split}.jsonl.gz").read_bytes()).decode()


if __name__ == "__main__":
    main()
