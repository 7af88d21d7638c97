"""Every method with its defaults on real data: the runs behind docs/results.md.

python scripts/run_methods.py ../shared/data --out runs/methods      goes on where it was stopped
python scripts/results_table.py runs/methods/*

`--share 0/2` and `--share 1/2` divide the runs between two processes; each run is a process of its own, as its peak
memory is the process's.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from inlay.methods import METHODS

VARIANTS = {
    # The head alone, at the best of its rates (1e-3 to 1e-1): what every method must beat.
    "frozen": ("last-layers", "--method.layers", "0", "--learning-rate", "0.1"),
    "pattern": ("pattern", "--method.include", r".*\.attention\..*"),
}
FIRST = ("full", "frozen", "lora", "dora", "pfeiffer", "houlsby", "prefix", "adalora", "dynamic-rank")
EVERY = (*FIRST, *(name for name in METHODS if name not in FIRST))


@dataclass(frozen=True)
class Series:
    model: str
    names: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()


SERIES = {
    "trec": Series("builtin:minilm", EVERY, seeds=(0, 1, 2)),
    "sst2": Series("builtin:minilm", EVERY),
    "e2e_nlg": Series(
        "builtin:tiny-lm",
        ("full", "lora", "qlora", "dora", "prefix", "pfeiffer", "prompt"),
        settings=("--epochs", "1", "--samples", "630"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SERIES), choices=list(SERIES), help="these data sets")
    parser.add_argument("--methods", nargs="*", help="these methods")
    parser.add_argument("--seeds", nargs="*", type=int, help="these seeds, in place of the data set's own")
    parser.add_argument("--share", default="0/1")
    asked = parser.parse_args()
    part, parts = map(int, asked.share.split("/"))
    runs = [
        (data, name, seed)
        for data in asked.only
        for seed in (SERIES[data].seeds if asked.seeds is None else asked.seeds)
        for name in SERIES[data].names
        if asked.methods is None or name in asked.methods
    ]
    for data, name, seed in runs[part::parts]:
        folder = asked.out / f"{data}-{name}-{seed}"
        if (folder / "summary.json").is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        method, *settings = VARIANTS.get(name, (name,))
        command = [sys.executable, "-m", "inlay", "train", SERIES[data].model, str(asked.data / data)]
        command += ["--method", method, *settings, *SERIES[data].settings, "--seed", str(seed), "--out", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(folder.name, (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-4:], flush=True)


if __name__ == "__main__":
    main()
