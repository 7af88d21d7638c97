"""Compare the time that a step is said to take with what it takes, every method on small models of two kinds.

python scripts/plan_time.py --out runs/time.jsonl           a table by method; what is in the file is not taken again
python scripts/plan_time.py --methods lora --threads 2      a part of it

Both with the same number of threads, one unless another is asked for. What is said comes from rates that were measured
on this machine before, with no run of it on record. What is taken is the least of a few steps as training takes them,
after one that does not count: with one thread in time of the processor, as other programs may share the machine, and
otherwise by the clock.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from plan_accuracy import KINDS, NEEDED, adapted, small_task
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from inlay.attached.adapter import Adapter
from inlay.batches.batch import Batch
from inlay.cost.calibration import measured_speed
from inlay.cost.run_cost import Way, largest_batch, run_cost
from inlay.loss_scale import LossScale
from inlay.methods import METHODS
from inlay.show.table import Column, Table
from inlay.tasks.task import Task
from inlay.training.passes import pass_through
from inlay.training.random_state import Draws

LENGTHS, DTYPES = (32, 128), (torch.float32, torch.bfloat16)
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS[:2]), choices=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/plan_time.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.out.read_text(encoding="utf-8").splitlines() if asked.out.is_file() else []
    known = {tuple(line["case"]): line for line in map(json.loads, lines)}
    for kind, length, dtype in itertools.product(asked.kinds, LENGTHS, DTYPES):
        task = small_task(kind, length)
        for name in asked.methods:
            case = (name, kind, length, str(dtype).removeprefix("torch."), asked.threads)
            if case not in known:
                told, taken = _times(task, kind, name, dtype)
                known[case] = {"case": case, "told": told, "taken": taken}
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[case]) + "\n")
                print(*case, f"{told:.4f} {taken:.4f} {taken / told - 1:+.0%}", file=sys.stderr, flush=True)
    found = [line for case, line in known.items() if case[0] in asked.methods and case[1] in asked.kinds]
    _show(found)


def _times(task: Task, kind: str, name: str, dtype: torch.dtype) -> tuple[float, float]:
    """Return the seconds of a step on the largest batch: what is said, and what it takes."""
    method = METHODS[name](**NEEDED[kind.split()[0]].get(name, {}))
    way = Way(method=method, dtype=dtype, batch_size=16)
    speed = measured_speed(torch.device("cpu"), dtype)
    told = speed.seconds(run_cost(task, way).step.work)
    return told, least_seconds(adapted(task, way), task, largest_batch(task, way, 1, 0)[0], way)


def least_seconds(adapter: Adapter, task: Task, batch: Batch, way: Way) -> float:
    """Take a few steps as training does, and return the time of the shortest after the first."""
    parameters = list(adapter.parameters())
    optimizer = AdamW(adapter.method.parameter_groups(adapter, 1e-4), weight_decay=0.0, fused=True)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    draws, seconds = Draws(0, 1, torch.device("cpu")), list[float]()
    adapter.model.train()
    for _ in range(1 + REPEATS):
        began = clock()
        pass_through(adapter, task, batch, way.micro_batch_size, LossScale.for_dtype(way.dtype), draws)
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(clock() - began)
    return min(seconds[1:])


def _show(found: Sequence[dict[str, Any]]) -> None:
    """Print the errors of each method, as shares of what was said, and those of all."""
    columns = [Column(name=name, right=bool(i)) for i, name in enumerate(("method", "median", "least", "most"))]
    errors: dict[str, list[float]] = {}
    for line in found:
        errors.setdefault(line["case"][0], []).append(line["taken"] / line["told"] - 1)
    rows: list[list[object]] = [
        [name, f"{statistics.median(map(abs, each)):.0%}", f"{min(each):+.0%}", f"{max(each):+.0%}"]
        for name, each in errors.items()
    ]
    print(Table(columns=columns, rows=rows).markdown())
    sizes = [abs(error) for each in errors.values() for error in each]
    print(f"{len(sizes)} steps: off by {statistics.median(sizes):.1%} (median), {max(sizes):.0%} (worst)")


if __name__ == "__main__":
    main()
