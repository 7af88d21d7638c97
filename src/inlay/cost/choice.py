"""The settings that fit in the memory there is and cost the least time: rows at once, and what is computed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import SettingsError
from ..models.recompute import ALL, FEEDFORWARD, NONE
from .run_cost import RunCost, Way
from .speed import Speed

KINDS = {NONE: 0.0, FEEDFORWARD: 0.5, ALL: 1.0}
"""What is computed again in the backward pass, and about what share of the forward pass that is."""


@dataclass(frozen=True)
class Candidate:
    """A way to take a step, and what it costs."""

    way: Way
    cost: RunCost
    fits: bool


def choose(
    first: Candidate,
    cost_of: Callable[[Way], RunCost],
    fits: Callable[[RunCost], bool],
    speed: Speed | None,
    blocks: int | None = None,
    may_recompute: bool = True,
    may_divide: bool = True,
) -> Candidate:
    """Return the fastest way that fits; if none does, the one that takes the least memory.

    `first` is the way that was asked for, which does not fit. `cost_of` follows a step, which takes a second or two, so
    that few are followed: of each kind of recomputation the smallest micro-batch, and then the largest for which there
    is room by what a row takes. A kind that would be slower with the whole batch than a way that fits is left out; of
    the `blocks` of the model as few are computed again as will do. Micro-batches are at most those of `first`, and
    exactly those if they may not be divided.
    """
    best, least, asked = None, first, first.way.recompute
    again_fits: list[Candidate] = []  # with every block computed again
    for kind in KINDS if may_recompute else [asked]:
        whole = replace(first.way, recompute=kind)
        sizes = dividing(whole.batch_size, whole.rows) if may_divide else [whole.rows]
        again = KINDS[kind] if may_recompute else 0.0
        if kind == ALL and blocks is not None:
            again /= blocks  # as few as one may do
        if best is not None and seconds(first, speed, again) >= seconds(best, speed):
            continue
        try:
            tried = _of_a_kind(whole, sizes, cost_of, fits)
        except SettingsError:  # the model has no such parts
            continue
        for choice in tried:
            least = min(least, choice, key=lambda each: each.cost.tensor_bytes)
            if choice.fits and (best is None or seconds(choice, speed) < seconds(best, speed)):
                best = choice
        again_fits += [choice for choice in tried if choice.fits and kind == ALL]
    if best is None or not may_recompute or blocks is None:
        return best or least
    for choice in again_fits:
        best = _fewer_blocks(choice, best, speed, blocks, cost_of, fits)
    return best


def _fewer_blocks(
    every: Candidate,
    best: Candidate,
    speed: Speed | None,
    blocks: int,
    cost_of: Callable[[Way], RunCost],
    fits: Callable[[RunCost], bool],
) -> Candidate:
    """Return the way that computes as few blocks again as fit, where `every` computes all of them, or `best` if that is
    as fast.

    The block whose backward pass is under way keeps what it has computed again, so that computing all of them saves no
    more than all but one. As many as do by that straight line are followed, and one more.
    """
    none = cost_of(replace(every.way, recompute=NONE))
    if fits(none):
        return best
    steps = none.step, every.cost.step
    for count in range(1, blocks):
        if not fits(replace(every.cost, step=steps[0].further(steps[1], count / (blocks - 1)))):
            continue
        for more in (count, count + 1):
            cost = replace(every.cost, step=steps[0].further(steps[1], more / blocks))
            if more >= blocks or seconds(Candidate(every.way, cost, fits=True), speed) >= seconds(best, speed):
                return best
            tried = _followed(replace(every.way, recompute=str(more)), cost_of, fits)
            if tried.fits:
                return min(best, tried, key=lambda each: seconds(each, speed))
        return best
    return best


def _of_a_kind(
    whole: Way, sizes: Sequence[int], cost_of: Callable[[Way], RunCost], fits: Callable[[RunCost], bool]
) -> list[Candidate]:
    """Return the smallest micro-batch, and the largest that fits, if that is larger."""
    small = _followed(replace(whole, micro_batch_size=sizes[-1]), cost_of, fits)
    if not small.fits or len(sizes) == 1:
        return [small]
    found, left, right = [small], 0, len(sizes) - 1  # the smallest is known to fit
    while left < right:
        middle = (left + right) // 2
        tried = _followed(replace(whole, micro_batch_size=sizes[middle]), cost_of, fits)
        found.append(tried)
        left, right = (left, middle) if tried.fits else (middle + 1, right)
    return found


def _followed(way: Way, cost_of: Callable[[Way], RunCost], fits: Callable[[RunCost], bool]) -> Candidate:
    cost = cost_of(way)
    return Candidate(way, cost, fits(cost))


def dividing(batch_size: int, most: int) -> list[int]:
    """Return the micro-batches of at most so many rows that divide the batch evenly, the largest first."""
    return [size for size in range(most, 0, -1) if batch_size % size == 0]


def seconds(choice: Candidate, speed: Speed | None, again: float = 0.0) -> float:
    """Return the time of a step with a share of its forward pass again; on a machine that is not here, its products."""
    cost = choice.cost
    work = cost.work.plus(cost.step.forward.of_tokens(cost.share), again * choice.way.own_rounds)
    return work.products if speed is None else speed.seconds(work)
