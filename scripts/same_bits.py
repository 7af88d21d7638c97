"""Whether 1, 2 and 4 processes train the same adapter, byte for byte: every method, on two builtin data sets.

python scripts/same_bits.py --out runs/same-bits

Each number of processes is started once by torchrun and trains all methods, 30 steps each: `builtin:tickets` in padded
batches and `builtin:captions` in packed rows. A step's ten rows are five micro-batches, of which neither
two nor four processes have equally many. The table is printed as Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import inlay
from inlay.methods import METHODS

NUMBERS = (1, 2, 4)
SETS = {
    "tickets": ("builtin:minilm", "builtin:tickets", {"max_length": 64}),
    "captions": ("builtin:tiny-lm", "builtin:captions", {"samples": 0}),
    "captions, padded": ("builtin:tiny-lm", "builtin:captions", {"samples": 0, "attention": "eager"}),  # by --sets
}
NEEDED: dict[str, dict[str, dict[str, Any]]] = {  # settings without which a method has nothing to train
    "builtin:minilm": {"pattern": {"include": (r".*\.attention\..*",)}},
    "builtin:tiny-lm": {"pattern": {"include": (r".*\.mlp\..*",)}, "bitfit": {"add_missing": True}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/same-bits"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--sets", nargs="*", default=["tickets", "captions"], choices=SETS)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        train_all(asked.out / str(asked.work), asked.methods, asked.sets)
        return
    again = [__file__, "--out", str(asked.out), "--methods", *asked.methods, "--sets", *asked.sets]
    for number in NUMBERS:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
        subprocess.run(
            [sys.executable, *start, *again, "--work", str(number)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    print(f"| method | {' | '.join(asked.sets)} |\n| --- |{' --- |' * len(asked.sets)}")
    for method in asked.methods:
        print(f"| {method} | {' | '.join(compared(asked.out, method, each) for each in asked.sets)} |")


def train_all(out: Path, methods: list[str], sets: list[str]) -> None:
    for name in methods:
        for each in sets:
            model, data, more = SETS[each]
            folder = out / each.replace(", ", "-") / name
            if (folder / "summary.json").is_file() and read(folder)["status"] == "finished":
                continue
            inlay.train(
                model,
                data,
                METHODS[name](**NEEDED[model].get(name, {})),
                out=str(folder),
                train_rows=300,
                eval_rows=30,
                epochs=1,
                batch_size=10,
                micro_batch_size=2,
                evaluations_per_epoch=2,
                forgetting=False,
                device="cpu",
                dtype="float32",
                progress=False,
                go_on=True,
                **more,
            )


def compared(out: Path, method: str, each: str) -> str:
    folders = [out / str(number) / each.replace(", ", "-") / method for number in NUMBERS]
    same_files = len({(f / "adapter" / "adapter_model.safetensors").read_bytes() for f in folders}) == 1
    same_losses = len({tuple(losses(f)) for f in folders}) == 1
    return "equal" if same_files and same_losses else "losses equal" if same_losses else "DIFFER"


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def losses(folder: Path) -> list[tuple[int, float]]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(event["step"], event["loss"]) for event in events if event["event"] in ("step", "evaluate")]


if __name__ == "__main__":
    main()
