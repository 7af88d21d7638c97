"""Train in processes of their own, and compare what was said with what they took, as this machine's record grows.

python scripts/plan_record.py --out runs/record            run what has not been run, then tell
python scripts/plan_record.py --out runs/record --tell     only tell

Each run is told by those before it. The order mixes models, methods, dtypes and batches, so that a run is seldom told
by one like it. The last lines give the errors after the first ten.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from inlay.show.table import Column, Table

_CASES = [
    ("builtin:minilm", "builtin:tickets", "lora", "bfloat16", 16),
    ("builtin:tiny-lm", "builtin:captions", "lora", "bfloat16", 16),
    ("builtin:minilm", "builtin:tickets", "full", "float32", 8),
    ("builtin:tiny-lm", "builtin:captions", "full", "float32", 16),
    ("builtin:minilm", "builtin:tickets", "prefix", "bfloat16", 8),
    ("builtin:tiny-lm", "builtin:captions", "houlsby", "float32", 8),
    ("builtin:minilm", "builtin:tickets", "bitfit", "float32", 16),
    ("builtin:tiny-lm", "builtin:captions", "dora", "bfloat16", 32),
    ("builtin:minilm", "builtin:tickets", "dora", "float32", 16),
    ("builtin:tiny-lm", "builtin:captions", "prompt", "bfloat16", 16),
    ("builtin:minilm", "builtin:tickets", "pfeiffer", "bfloat16", 32),
    ("builtin:tiny-lm", "builtin:captions", "ia3", "float32", 32),
    ("builtin:minilm", "builtin:tickets", "lora", "float32", 32),
    ("builtin:tiny-lm", "builtin:captions", "adalora", "bfloat16", 8),
    ("builtin:minilm", "builtin:tickets", "full", "bfloat16", 16),
    ("builtin:tiny-lm", "builtin:captions", "lokr", "float32", 16),
    ("builtin:minilm", "builtin:tickets", "houlsby", "bfloat16", 4),
    ("builtin:tiny-lm", "builtin:captions", "norm", "bfloat16", 16),
    ("builtin:minilm", "builtin:tickets", "oft", "float32", 8),
    ("builtin:tiny-lm", "builtin:captions", "lora", "float32", 64),
]
_ROWS = 320
_BEFORE = 10  # runs on record


@dataclass(frozen=True)
class Told:
    """A run's figures: what was said of it, and what it took."""

    name: str
    process: float  # taken over said, less 1
    seconds: float
    tensors: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/record"))
    parser.add_argument("--tell", action="store_true")
    asked = parser.parse_args()
    found = []
    for number, case in enumerate(_CASES):
        folder = asked.out / f"{number:02}-{case[2]}"
        if not (folder / "summary.json").is_file() and not asked.tell:
            _run(case, folder, asked.out)
        if (folder / "summary.json").is_file():
            found.append(_told(folder, " ".join(map(str, case))))
    columns = [Column(name=name, right=bool(i)) for i, name in enumerate(("run", "process", "training", "tensors"))]
    rows = [[each.name, *(f"{x:+.1%}" for x in (each.process, each.seconds, each.tensors))] for each in found]
    print(Table(columns=columns, rows=rows).markdown())
    for what in ("process", "seconds", "tensors"):
        errors = [getattr(each, what) for each in found[_BEFORE:]]
        if errors:
            sizes = [abs(error) for error in errors]
            print(
                f"{what} after {_BEFORE} runs: median {statistics.median(sizes):.1%}, worst {max(sizes):.1%}, "
                f"most above what was said {max(errors):+.1%}"
            )


def _run(case: tuple[str, str, str, str, int], folder: Path, home: Path) -> None:
    model, data, method, dtype, batch = case
    flags = ["--dtype", dtype, "--batch-size", str(batch), "--data.train-rows", str(_ROWS), "--epochs", "2"]
    more = ["--no-forgetting", "--samples", "16"] if model == "builtin:tiny-lm" else ["--no-forgetting"]
    command = [sys.executable, "-m", "inlay", "train", model, data, "--method", method, *flags, *more]
    environment = os.environ | {"INLAY_HOME": str(home / "home")}
    subprocess.run(
        [*command, "--data.eval-rows", "64", "--out", str(folder)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _told(folder: Path, name: str) -> Told:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    plan = summary["plan"]
    return Told(
        name,
        summary["peak_memory_bytes"] / plan["memory_bytes"] - 1,
        summary["train_seconds"] / plan["seconds"] - 1,
        sum(summary["tensors"].values()) / sum(plan["tensors"].values()) - 1,
    )


if __name__ == "__main__":
    main()
