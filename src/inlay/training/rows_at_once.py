"""How many rows are computed at once: as many as a CPU is fastest with, so few that each of several processes has some,
and that they fit."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from ..cost.choice import Candidate, choose, dividing, seconds
from ..cost.depth import depth
from ..cost.machine import Machine
from ..cost.run_cost import RunCost, Way
from ..cost.speed import Speed
from ..tasks.task import Task

_QUICK, _QUICK_FOR_A_THREAD = 2048, 1024  # tokens


def rows_at_once(
    task: Task, batch_size: int, seed: int, device: torch.device, among: int = 1
) -> tuple[int, str | None]:
    """Return the micro-batch of a step that so many processes share, and why it is not the whole batch."""
    quick, share = quick_rows(task, batch_size, seed, device), share_of(batch_size, among)
    if share <= quick:
        return share, f"so that each of {among} processes has its share of a step" if share < batch_size else None
    return quick, f"as a CPU computes {_quick_tokens():,} tokens at once faster than more"


def share_of(batch_size: int, among: int) -> int:
    """Return the largest micro-batch with which each process has some of the rows."""
    return dividing(batch_size, batch_size // among)[0]


def quick_rows(task: Task, batch_size: int, seed: int, device: torch.device) -> int:
    """Return the largest micro-batch that computes a usual batch in parts of no more tokens than a CPU is fastest with.

    Of more tokens, what one layer leaves is no longer in the caches when the next one reads it (docs/results.md).
    An accelerator is fastest with the whole batch.
    """
    if device.type != "cpu":
        return batch_size
    tokens_of_a_row = statistics.median(task.size(rows) / len(rows) for rows in task.order(batch_size, seed))
    sizes = dividing(batch_size, batch_size)
    return next((size for size in sizes if size * tokens_of_a_row <= _quick_tokens()), 1)


def _quick_tokens() -> int:
    return max(_QUICK, _QUICK_FOR_A_THREAD * torch.get_num_threads())


def choose_among(
    count: int,
    first: Candidate,
    cost_of: Callable[[Way], RunCost],
    fits: Callable[[RunCost], bool],
    speed: Speed | None,
    blocks: int | None,
    may_recompute: bool,
    may_divide: bool = True,
) -> Candidate:
    """Return what `choose` does, for micro-batches that are to be at most those of `first`, if its rows are shared out
    among several processes.
    """
    if count == 1:
        return choose(first, cost_of, fits, speed, blocks, may_recompute, may_divide)
    best, least = None, first
    for size in dividing(first.way.batch_size, first.way.rows):
        way = replace(first.way, micro_batch_size=size)
        cost = cost_of(way)
        found = Candidate(way, cost, fits(cost))
        keeps_all = found.fits
        if not found.fits:
            found = choose(found, cost_of, fits, speed, blocks, may_recompute, may_divide=False)
        least = min(least, found, key=lambda each: each.cost.tensor_bytes)
        if found.fits and (best is None or seconds(found, speed) < seconds(best, speed)):
            best = found
        if keeps_all:  # smaller ones take longer, or hardly less where each process has as many of those
            break
    return best or least


def made_to_fit(
    machine: Machine,
    task: Task,
    way: Way,
    cost: RunCost,
    cost_of: Callable[[Way], RunCost],
    *,
    among: int,
    may_recompute: bool,
    may_divide: bool,
) -> Candidate:
    """Return what is chosen in place of a way whose cost does not fit on the machine, for a step that so many processes
    share."""
    speed = machine.speed(task.base)
    first = Candidate(way, cost, fits=False)
    return choose_among(among, first, cost_of, machine.fits, speed, depth(task.config), may_recompute, may_divide)
