"""How many rows several processes that share a step compute at once: so few that each has some, and that they fit."""

from collections.abc import Callable
from dataclasses import replace

from ..cost.choice import Candidate, choose, seconds
from ..cost.depth import depth
from ..cost.machine import Machine
from ..cost.run_cost import RunCost, Way
from ..cost.speed import Speed
from ..tasks.task import Task


def share_of(batch_size: int, among: int) -> int:
    """Return the largest micro-batch with which each process has some of the rows."""
    return max(size for size in range(1, batch_size // among + 1) if batch_size % size == 0)


def choose_among(
    count: int,
    first: Candidate,
    cost_of: Callable[[Way], RunCost],
    fits: Callable[[RunCost], bool],
    speed: Speed | None,
    blocks: int | None,
    may_recompute: bool,
) -> Candidate:
    """Return what `choose` does, for micro-batches that are to be at most those of `first`, if its rows are shared out
    among several processes.
    """
    if count == 1:
        return choose(first, cost_of, fits, speed, blocks, may_recompute)
    best, least = None, first
    for size in (size for size in range(first.way.rows, 0, -1) if first.way.batch_size % size == 0):
        way = replace(first.way, micro_batch_size=size)
        cost = cost_of(way)
        found = Candidate(way, cost, fits(cost))
        keeps_all = found.fits
        if not found.fits:
            found = choose(found, cost_of, fits, speed, blocks, may_recompute)
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
) -> Candidate:
    """Return what is chosen in place of a way whose cost does not fit on the machine, for a step that so many processes
    share."""
    speed = machine.speed(task.base)
    first = Candidate(way, cost, fits=False)
    return choose_among(among, first, cost_of, machine.fits, speed, depth(task.config), may_recompute)
