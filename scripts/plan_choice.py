"""Compare the way of taking a step that is chosen for a limit with the fastest that fits, by measurement.

python scripts/plan_choice.py                                    lora on builtin:tiny-lm, 16 rows of 128 tokens
python scripts/plan_choice.py --method houlsby --kind encoder

The ways are every micro-batch that divides the batch, with nothing computed again, feed-forwards, so many blocks, or
all. They are measured in turns; the time of one is the least of a few steps in time of the processor on one thread, as
other programs may share the machine. Then a way is chosen for each of 20 limits between what the smallest way takes and
the largest; it counts as the fastest if no measured way that fits takes less than 98 % of its time.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from plan_accuracy import KINDS, NEEDED, adapted, small_task
from plan_time import least_seconds

from inlay.cost.calibration import measured_speed
from inlay.cost.choice import Candidate, choose
from inlay.cost.depth import depth
from inlay.cost.run_cost import RunCost, Way, largest_batch, run_cost
from inlay.methods import METHODS
from inlay.models.document_attention import attend_by_document
from inlay.models.recompute import ALL, FEEDFORWARD, NONE, Recomputing, chosen
from inlay.models.sites import Sites
from inlay.show.table import Column, Table
from inlay.show.units import bytes_text
from inlay.tasks.task import Task

LIMITS, SAME, ROUNDS = 20, 0.98, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--kind", default=KINDS[1], choices=list(KINDS))
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task = small_task(asked.kind, asked.length, asked.blocks)
    method = METHODS[asked.method](**NEEDED[asked.kind.split()[0]].get(asked.method, {}))
    first = Way(method=method, dtype=torch.float32, batch_size=16)

    def cost_of(way: Way) -> RunCost:
        return run_cost(task, way)  # which knows what it has followed

    blocks = depth(task.config) or 1
    ways = [
        replace(first, micro_batch_size=size, recompute=again)
        for size in (16, 8, 4, 2, 1)
        for again in (NONE, FEEDFORWARD, *map(str, range(1, blocks)), ALL)
    ]
    seconds, takes = dict[str, float](), dict[str, int]()
    for _ in range(ROUNDS):
        for way in ways:
            seconds[_words(way)] = min(seconds.get(_words(way), math.inf), _seconds(task, way))
    for way in ways:
        takes[_words(way)] = cost_of(way).tensor_bytes
        told = measured_speed(torch.device("cpu"), way.dtype).seconds(cost_of(way).step.work)
        what = f"{_words(way)}: {seconds[_words(way)]:.3f} s (told {told:.3f})"
        print(what, bytes_text(takes[_words(way)]), file=sys.stderr, flush=True)
    rows, right = [], 0
    least, most = min(takes.values()), max(takes.values())
    for number in range(LIMITS):
        limit = least + (most - least) * number / LIMITS
        found = _chosen(first, cost_of, limit, blocks)
        own = _words(found.way)
        fastest = min((way for way, size in takes.items() if size <= limit), key=seconds.__getitem__)
        is_right = found.fits and seconds[own] * SAME <= seconds[fastest]
        right += is_right
        times = (f"{seconds[way]:.3f}" for way in (own, fastest))
        rows.append([bytes_text(limit), own, next(times), fastest, next(times), "" if is_right else "no"])
    names = ("limit", "chosen", "seconds", "fastest that fits", "seconds", "")
    print(Table(columns=[Column(name=name, right=name == "seconds") for name in names], rows=rows).markdown())
    print(f"the fastest in {right} of {LIMITS}")
    for again in (FEEDFORWARD, ALL):
        print(f"recompute {again}: {seconds[f'16 rows, {again}'] / seconds[f'16 rows, {NONE}']:.2f} of a step")


def _chosen(first: Way, cost_of: Callable[[Way], RunCost], limit: float, blocks: int) -> Candidate:
    def fits(cost: RunCost) -> bool:
        return cost.tensor_bytes <= limit

    start = Candidate(first, cost_of(first), fits(cost_of(first)))
    speed = measured_speed(torch.device("cpu"), first.dtype)
    return start if start.fits else choose(start, cost_of, fits, speed, blocks)


def _words(way: Way) -> str:
    return f"{way.rows} rows, {way.recompute}"


def _seconds(task: Task, way: Way) -> float:
    task = copy.copy(task)
    task.in_parts(way.rows / way.batch_size)
    adapter = adapted(task, way)
    batch = largest_batch(task, way, 1, 0)[0]
    if "position_ids" in batch:
        attend_by_document(adapter.model)  # pyright: ignore[reportArgumentType]
    Recomputing(chosen(Sites(adapter.model), way.recompute))
    return least_seconds(adapter, task, batch, way)


if __name__ == "__main__":
    main()
