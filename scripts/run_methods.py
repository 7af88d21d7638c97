"""Every method with its defaults on trec (three seeds) and sst2 (one): the runs behind docs/results.md.

python scripts/run_methods.py ../shared/data --out runs/methods      goes on where it was stopped
python scripts/results_table.py runs/methods/*

`--share 0/2` and `--share 1/2` divide the runs between two processes; each run is a process of its own, as its peak
memory is the process's.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from inlay.methods import METHODS

VARIANTS = {
    "frozen": ("last-layers", "--method.layers", "0"),  # the head alone: what every method must beat
    "pattern": ("pattern", "--method.include", r".*\.attention\..*"),
}
FIRST = ("full", "frozen", "lora", "dora", "pfeiffer", "houlsby", "prefix", "adalora", "dynamic-rank")
SEEDS = {"trec": (0, 1, 2), "sst2": (0,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    names = [*FIRST, *(name for name in METHODS if name not in FIRST)]
    parser.add_argument("--methods", nargs="*", default=names, choices=names)
    parser.add_argument("--share", default="0/1")
    asked = parser.parse_args()
    part, parts = map(int, asked.share.split("/"))
    runs = [(data, name, seed) for data, seeds in SEEDS.items() for seed in seeds for name in asked.methods]
    for data, name, seed in runs[part::parts]:
        folder = asked.out / f"{data}-{name}-{seed}"
        if (folder / "summary.json").is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        method, *settings = VARIANTS.get(name, (name,))
        command = [sys.executable, "-m", "inlay", "train", "builtin:minilm", str(asked.data / data)]
        command += ["--method", method, *settings, "--seed", str(seed), "--out", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(folder.name, (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-4:], flush=True)


if __name__ == "__main__":
    main()
