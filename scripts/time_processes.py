"""How long a step takes in one process and in two, of one thread each: runs alternate, and the medians are compared.

python scripts/time_processes.py [--pairs 3]

LoRA on builtin:minilm and builtin:tickets, 16 rows a step: at once in one process, eight each in two. The time is that
of training alone, by the tokens a second of the run's summary.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

RUN = ["train", "builtin:minilm", "builtin:tickets", "--method", "lora", "--batch-size", "16", "--epochs", "1"]
ALONE = ["--no-forgetting", "--evaluations-per-epoch", "1", "--device", "cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(asked.pairs):
        for count, found in speeds.items():
            found.append(tokens_per_second(count, asked.dtype))
            print(f"{count} process{'es' if count > 1 else ''}: {found[-1]:,.0f} tokens/s", flush=True)
    ratios = [one / two for one, two in zip(*speeds.values(), strict=True)]
    ratio = statistics.median(speeds[1]) / statistics.median(speeds[2])
    print(f"two take {ratio:.2f} of the time of one (pairs: {', '.join(f'{each:.2f}' for each in ratios)})")


def tokens_per_second(count: int, dtype: str) -> float:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "inlay", *RUN, *ALONE, "--dtype", dtype, "--out", str(out)]
        own = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(
            [*command, "--processes", str(count)],
            env=own,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return json.loads((out / "summary.json").read_text())["tokens_per_second"]


if __name__ == "__main__":
    main()
