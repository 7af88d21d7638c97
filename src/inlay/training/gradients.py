"""The gradients of a step's micro-batches, added up over the processes that computed them.

They are added in the order of the micro-batches, whichever process had which, as one process alone adds them: any
number of processes comes to the same bits. Each adds its slice of the numbers and sends the others the sums, so that
with one micro-batch a process it sends what a sum by reduce-scatter and all-gather would:
(own micro-batches + 1) (n - 1) / n times the bytes of what is trained, n the number of processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import processes

_BUCKET = 2**22  # numbers that are sent at once

Gradients = list[Tensor | None]  # of each parameter


def dealt(costs: Sequence[int], among: int) -> list[int]:
    """Choose the process that computes each micro-batch: the costliest first, to whoever has least to do."""
    load, owners = [0] * among, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owners[i] = min(range(among), key=lambda number: (load[number], number))
        load[owners[i]] += costs[i]
    return owners


def taken(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Return the gradients, which the parameters then have no more."""
    found = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return found


def add_in_order(parameters: Sequence[nn.Parameter], own: Sequence[Gradients], owners: Sequence[int]) -> None:
    """Give each parameter the sum of its gradients over all micro-batches; `own` are those that this process had."""
    counts = [owners.count(number) for number in range(processes.count())]
    places = _places(owners, counts)
    seen = processes.gathered([any(each[i] is not None for each in own) for i in range(len(parameters))])
    trained = [i for i in range(len(parameters)) if any(of_process[i] for of_process in seen)]
    for bucket in _buckets(parameters, trained):
        numbers = sum(parameters[i].numel() for i in bucket)
        width = -(-numbers // processes.count())
        parts = parameters[bucket[0]].new_zeros(len(own), processes.count() * width)
        for part, gradients in zip(parts, own, strict=True):
            found = [torch.zeros_like(parameters[i]) if (g := gradients[i]) is None else g for i in bucket]
            torch.cat([gradient.flatten() for gradient in found], out=part[:numbers])
        slices = processes.exchange(parts.view(len(own), processes.count(), width), counts)
        total = slices[places[0]].clone()
        for place in places[1:]:
            total += slices[place]
        whole, start = processes.all_slices(total), 0
        for i in bucket:
            p = parameters[i]
            p.grad = torch.empty_like(p).copy_(whole[start : start + p.numel()].view(p.shape))  # in p's order in memory
            start += p.numel()


def _places(owners: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Return where each micro-batch's gradients are among those that were exchanged, ordered by process."""
    following = [sum(counts[:number]) for number in range(len(counts))]
    places = []
    for owner in owners:
        places.append(following[owner])
        following[owner] += 1
    return places


def _buckets(parameters: Sequence[nn.Parameter], trained: Sequence[int]) -> list[list[int]]:
    """Divide the parameters into some that are sent together: of one dtype, and not too many numbers."""
    buckets: list[list[int]] = []
    numbers = 0
    for i in trained:
        p = parameters[i]
        if not buckets or numbers + p.numel() > _BUCKET or parameters[buckets[-1][0]].dtype != p.dtype:
            buckets.append([])
            numbers = 0
        buckets[-1].append(i)
        numbers += p.numel()
    return buckets
