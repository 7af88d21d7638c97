"""Show that two states of Inlay train the same adapters: every tensor bit for bit, every score equal.

    python scripts/same_results.py BEFORE AFTER [--methods lora full ...] [--markdown FILE]

BEFORE and AFTER are folders with a checkout each, in both of which each method trains 40 steps on builtin:tickets and
on builtin:captions. What a commit has trained is kept in --keep and not trained again. Both must run on one machine:
sums differ between processors.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RUNS = {"tickets": ["builtin:minilm"], "captions": ["builtin:tiny-lm", "--samples", "2"]}  # only one writes texts
SETTINGS = {"bitfit": ["--method.add-missing"], "pattern": ["--method.include", r".*\.(query|q_proj)\.weight"]}
STEPS, BATCH = 40, 4
FLAGS = (
    f"--dtype float32 --seed 3 --no-forgetting --epochs 1 --batch-size {BATCH} --max-length 48 "
    f"--data.train-rows {STEPS * BATCH} --data.eval-rows 32 --evaluations-per-epoch 2"
).split()

TRAIN = """
import json, sys, traceback, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from inlay.cli import main
for line in sys.stdin:
    folder, *arguments = json.loads(line)
    if not (Path(folder) / "adapter").is_dir():
        print(folder, flush=True, file=sys.stderr)
        code = main(["train", *arguments, "--out", folder])
        if code:
            print(f"{folder}: exit {code}", flush=True, file=sys.stderr)
"""


def main() -> None:
    options = _options()
    sides = {name: _trained(Path(folder).resolve(), options) for name, folder in vars(options).items() if name in SIDES}
    rows = []
    for method in options.methods:
        for data in RUNS:
            said = _compared(*(side / f"{data}-{method}" for side in sides.values()))
            rows.append((method, data, said))
    lines = ["| method | data | adapter and scores |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    equal, refused = (sum(row[-1] == outcome for row in rows) for outcome in (EQUAL, REFUSED))
    wrong = len(rows) - equal - refused
    lines += ["", f"{len(rows)} pairs of runs: {equal} equal bit for bit, {refused} refused by both, {wrong} unlike."]
    text = "\n".join(lines)
    print(text)
    if options.markdown:
        Path(options.markdown).write_text(text + "\n")
    raise SystemExit(bool(wrong))


SIDES = ("before", "after")
EQUAL, REFUSED = "equal", "refused by both"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in SIDES:
        parser.add_argument(name, help="a folder with a checkout")
    from inlay import METHODS

    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--keep", default="runs/same", help="where the runs are written")
    parser.add_argument("--markdown", help="file to write the table to")
    return parser.parse_args()


def _trained(checkout: Path, options: argparse.Namespace) -> Path:
    """Train whatever `checkout` has not trained yet, in a process of its own; returns where the runs are."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    folder = Path(options.keep).resolve() / commit[:12]
    asked = []
    for method in options.methods:
        for data, (model, *own) in RUNS.items():
            run = [str(folder / f"{data}-{method}"), model, f"builtin:{data}", *own]
            asked.append(json.dumps([*run, "--method", method, *SETTINGS.get(method, []), *FLAGS]))
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", TRAIN],
        input="\n".join(asked),
        env=environment,
        cwd=checkout,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


def _compared(before: Path, after: Path) -> str:
    """Name the first difference between two runs, or say that there is none."""
    import torch
    from safetensors.torch import load_file

    there = [(run / "adapter" / "adapter_model.safetensors").is_file() for run in (before, after)]
    if there == [False, False]:
        return REFUSED
    if not all(there):
        return "only one of the two made an adapter"
    summaries = [json.loads((run / "summary.json").read_text()) for run in (before, after)]
    if summaries[0]["metrics"] != summaries[1]["metrics"]:
        return f"scores {_first(*(summary['metrics'] for summary in summaries))}"
    tensors = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (before, after)]
    if tensors[0].keys() != tensors[1].keys():
        return f"names: {sorted(tensors[0].keys() ^ tensors[1].keys())[0]}"
    for key, tensor in tensors[0].items():
        if not torch.equal(tensor, tensors[1][key]):
            return f"{key} by up to {(tensor - tensors[1][key]).abs().max().item():.3g}"
    return EQUAL


def _first(one: dict[str, Any], other: dict[str, Any]) -> str:
    return next(f"{key}: {one.get(key)} and {other.get(key)}" for key in one | other if one.get(key) != other.get(key))


if __name__ == "__main__":
    main()
