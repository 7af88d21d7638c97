"""The rows of each step, and the passes forward and backward through its micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .. import processes
from ..attached.adapter import Adapter
from ..batches.batch import Batch, Order, divided, token_count
from ..batches.objective import Objective
from ..errors import DoesNotFit
from ..loss_scale import LossScale
from ..machine import out_of_memory
from ..models.sharding import check_recovers, has_shares
from .gradients import Gradients, add_in_order, dealt, taken
from .random_state import Draws


def rows_of_steps(batches: DataLoader[object], per_epoch: int, done: int) -> Iterator[list[object]]:
    """Yield the rows of every step after the first `done`, epoch after epoch."""
    order = cast(Order, batches.batch_sampler)
    begun, order.skip = divmod(done, per_epoch)
    for epoch in count(begun):
        order.set_epoch(epoch)
        state = torch.get_rng_state()
        for number, batch in enumerate(batches):
            if number == 0 and order.skip:  # a loader draws a random number as an epoch begins, and this one has begun
                torch.set_rng_state(state)
            yield batch
        order.skip = 0


def pass_through(
    adapter: Adapter, objective: Objective, batch: Batch, size: int | None, scale: LossScale, draws: Draws
) -> float:
    """Compute the gradients of a step, in micro-batches of that size; returns its loss.

    Of several processes each computes some of the micro-batches, and all come to the gradients and the loss of one.
    """
    parameters = list(adapter.parameters())
    parts = list(micro_batches(batch, size, objective))
    owners = dealt([token_count(part) for part, _ in parts], processes.count())
    losses, own, failed = dict[int, Tensor](), list[Gradients](), None
    with draws.kept(), processes.gathering():
        try:
            row = 0
            for i, (part, part_share) in enumerate(parts):
                if owners[i] == processes.number():
                    draws.begin(row)
                    part_loss = objective.loss(adapter.model, part) * part_share
                    scale.scaled(part_loss).backward()
                    losses[i] = part_loss.detach()
                    if processes.count() > 1:
                        own.append(taken(parameters))
                row += len(part["input_ids"])
            if has_shares(adapter.model):  # all gather its weights together, and so pass equally often
                rounds = [owners.count(number) for number in range(processes.count())]
                for _ in range(max(rounds) - rounds[processes.number()]):
                    (0 * scale.scaled(objective.loss(adapter.model, parts[0][0]))).backward()
                    taken(parameters)
        except Exception as problem:
            if processes.count() == 1 or (why := out_of_memory(problem)) is None:
                raise
            check_recovers(adapter.model, why)
            failed = problem
    told = dict(zip(losses, torch.stack([*losses.values()]).tolist(), strict=True)) if losses else {}
    if processes.count() > 1:
        told = _agreed(told, failed)
    with _by_all():
        if processes.count() > 1:
            add_in_order(parameters, own, owners)
        if (penalty := adapter.method.penalty(adapter)) is not None:
            scale.scaled(penalty).backward()
    return sum(told[i] for i in range(len(parts)))


@contextmanager
def _by_all() -> Iterator[None]:
    """Raise DoesNotFit if one of several processes runs out of memory in the block: the others do not, and go on."""
    try:
        yield
    except Exception as problem:
        if processes.count() == 1 or (why := out_of_memory(problem)) is None:
            raise
        raise DoesNotFit(
            f"{why.partition(';')[0]} as the processes' gradients were added, after which the step cannot be done "
            "again; each keeps those of all its micro-batches: try fewer, by a larger --micro-batch-size or more "
            "processes"
        ) from None


def _agreed(losses: dict[int, float], failed: Exception | None) -> dict[int, float]:
    """Return the losses of all micro-batches; raises in every process if one of them ran out of memory."""
    found = processes.gathered((losses, None if failed is None else str(failed)))
    if failed is not None:
        raise failed
    for number, (_, why) in enumerate(found):
        if why is not None:
            raise torch.OutOfMemoryError(f"process {number}: {why}")
    return {i: loss for of_process, _ in found for i, loss in of_process.items()}


def micro_batches(batch: Batch, size: int | None, objective: Objective) -> Iterator[tuple[Batch, float]]:
    """Yield micro-batches with their share of what is learned, so that their gradients add up to the whole batch's."""
    whole = objective.weight(batch)
    for part in divided(batch, size):
        yield part, objective.weight(part) / whole
