"""The rows of each step, and the passes forward and backward through its micro-batches."""

from collections.abc import Iterator
from itertools import count
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..attached.adapter import Adapter
from ..batches.batch import Batch, Order, divided
from ..batches.objective import Objective
from ..loss_scale import LossScale


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


def pass_through(adapter: Adapter, objective: Objective, batch: Batch, size: int | None, scale: LossScale) -> float:
    """Compute the gradients of a step, in micro-batches of that size; returns its loss."""
    losses = list[Tensor]()
    for part, part_share in micro_batches(batch, size, objective):
        part_loss = objective.loss(adapter.model, part) * part_share
        scale.scaled(part_loss).backward()
        losses.append(part_loss.detach())
    if (penalty := adapter.method.penalty(adapter)) is not None:
        scale.scaled(penalty).backward()
    return sum(torch.stack(losses).tolist())


def micro_batches(batch: Batch, size: int | None, objective: Objective) -> Iterator[tuple[Batch, float]]:
    """Yield micro-batches with their share of what is learned, so that their gradients add up to the whole batch's."""
    whole = objective.weight(batch)
    for part in divided(batch, size):
        yield part, objective.weight(part) / whole
