"""What one training step takes: its memory by part, and its operations, from a step that is followed.

The step is that of training/loop.py: micro-batches forward and backward, the method's penalty, clipping, AdamW. On a
model without values it takes as many bytes, to the last, as on one with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn
from torch.optim import AdamW

from ..attached.adapter import Adapter
from ..batches.batch import Batch
from ..batches.objective import Objective
from ..batches.rounds import counting
from ..core.state import SLOT
from .caching_allocator import reserved
from .fake_model import scales_of
from .trace import Trace
from .work import Work


@dataclass(frozen=True)
class StepCost:
    """The memory of a step where it is at its most, in bytes by part, and its work."""

    memory: dict[str, int]
    work: Work
    update: Work  # the part of the work that is the same for any number of tokens: clipping, AdamW
    forward: Work  # of one micro-batch, which is what an evaluation of as many rows takes
    trained: int  # numbers
    saved_bytes: int  # of the adapter's file
    kernels: int  # matrix products of 16 bits, of which no two are alike
    reserved: int  # bytes that the device's allocator takes for its memory

    @property
    def peak(self) -> int:
        return sum(self.memory.values())

    def work_of(self, share: float, part: float = 1.0) -> Work:
        """Return the work of a step on this share of the tokens, with a part of its micro-batches."""
        passes = self.work.plus(self.update, -1).of_tokens(share)
        return self.update.plus(passes, part)

    def further(self, other: Self, steps: float) -> Self:
        """Return the cost at the end of a line from this one by the other, `steps` times as long."""
        return replace(
            self,
            memory={part: round(b + steps * (other.memory[part] - b)) for part, b in self.memory.items()},
            work=self.work.plus(other.work.plus(self.work, -1), steps),
            update=self.update.plus(other.update.plus(self.update, -1), steps),
            forward=self.forward.plus(other.forward.plus(self.forward, -1), steps),
            trained=round(self.trained + steps * (other.trained - self.trained)),
            saved_bytes=round(self.saved_bytes + steps * (other.saved_bytes - self.saved_bytes)),
            kernels=round(self.kernels + steps * (other.kernels - self.kernels)),
            reserved=round(self.reserved + steps * (other.reserved - self.reserved)),
        )


def follow_step(
    adapter: Adapter, objective: Objective, parts: Sequence[Batch], rounds: int, clip: float, block: int = 1
) -> StepCost:
    """Take a step on `parts`, one or two micro-batches of `rounds` alike, and follow it.

    With two the second finds gradients of the first, as all later ones do. The optimizer's averages are there from the
    start, as in every step but a run's first. In the end rate and gradients are 0, and no parameter
    changes.
    """
    model, parameters = adapter.model, list(adapter.parameters())
    model.train()
    trace = Trace(block)
    storages = trace.storages
    _name_model(adapter, trace)
    optimizer = _optimizer(parameters)
    storages.name((t for state in optimizer.state.values() for t in state.values()), "optimizer")
    storages.name((t for part in parts for t in part.values()), "inputs")
    whole, forward = sum(objective.weight(part) for part in parts), Work()
    ends = model.register_forward_hook(lambda *_: storages.name_temporaries("activations"))
    with trace, counting(trace):
        for number, part in enumerate(parts):
            trace.times = rounds - len(parts) + 1 if number == 0 else 1
            before = trace.work
            storages.part = "temporaries"
            loss = objective.loss(model, part) * (objective.weight(part) / whole)
            storages.name_temporaries("loss")
            forward = trace.work.plus(before, -1)
            loss.backward()
            storages.name((p.grad for p in parameters if p.grad is not None), "gradients")
            del loss
        trace.times, passes = 1, trace.work
        if (penalty := adapter.method.penalty(adapter)) is not None:
            penalty.backward()
        del penalty
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        trace.times = 0  # no step does that but this one
        for p in parameters:
            if p.grad is not None:
                p.grad.zero_()  # a rate of 0 times what is not finite would not be 0
        trace.times = 1
        optimizer.step()
    ends.remove()
    for p in parameters:
        p.grad = None
    memory = storages.peak()
    return StepCost(
        memory=memory,
        work=trace.work,
        update=trace.work.plus(passes, -1),
        forward=forward,
        trained=sum(p.numel() for p in parameters),
        saved_bytes=sum(t.numel() * t.element_size() for _, _, t in adapter.tensors()),
        kernels=len(trace.kernels),
        reserved=reserved(storages.changes) if block > 1 else sum(memory.values()),
    )


def _name_model(adapter: Adapter, trace: Trace) -> None:
    model, name = adapter.model, trace.storages.name
    name((*model.parameters(), *model.buffers(), *scales_of(model)), "weights")
    deltas = {host: getattr(host, SLOT) for _, host, _ in adapter.hosts()}
    name((t for slot in deltas.values() for t in (*slot.parameters(), *slot.buffers())), "adapter")
    name(adapter.parameters(), "adapter")


def _optimizer(parameters: Sequence[nn.Parameter]) -> AdamW:
    """Make the optimizer, with averages as after its first step."""
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer = AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer
