"""What a run will take, said before its first step, from two forward and backward passes that change nothing.

The largest batch of the first epoch tells the memory: what the process holds then, and the optimizer's two float32
numbers for each trained one, on the CPU with the best step's and the start's beside them. One of average size, after
it, tells the time of a step, and the base's evaluation, which has been timed, that of the others. For a run of few
passes a second one would be too much: the time of the first counts by the token, and with what happens only the first
time it is rather too long than too short.
"""

import statistics
import time
from dataclasses import dataclass

import torch

from ..attached.adapter import Adapter
from ..batches.batch import Batch, to_device
from ..batches.objective import Objective
from ..core.method import Method
from ..devices import is_accelerator, synchronize
from ..tasks.task import Task
from .loop import Plan
from .memory import peak_memory_bytes
from .settings import RunSettings

_OPTIMIZER_BYTES = 8  # for each trained number: AdamW's two moments
_KEPT_BYTES = 4  # the best step's, and the start's to go back to, which are kept on the CPU
_FEW_PASSES = 50  # of a run: one more is a fiftieth


@dataclass(frozen=True)
class Estimate:
    seconds: float  # of training, with its evaluations
    memory_bytes: int


def estimate(
    adapter: Adapter,
    plan: Plan,
    settings: RunSettings[Method],
    task: Task,
    objective: Objective,
    evaluation_seconds: float,
    size: int | None = None,
) -> Estimate:
    """Estimate time and memory with micro-batches of `size` rows, by default those that are asked for.

    The adapter, its gradients and the random state stay as they were.
    """
    size = size or settings.micro_batch_size or settings.batch_size
    device = next(adapter.model.parameters()).device
    batches = {tuple(rows): task.size(rows) for rows in task.order(size, settings.seed)}
    average = statistics.mean(batches.values())
    typical = min(batches, key=lambda rows: abs(batches[rows] - average))
    largest = max(batches, key=batches.__getitem__)
    passes = plan.steps * settings.batch_size / size

    with torch.random.fork_rng([device] if is_accelerator(device) else []):
        seconds = _pass(adapter, objective, task.batch_of(largest), device) * average / batches[largest]
        memory = peak_memory_bytes(device)
        if passes > _FEW_PASSES:
            seconds = _pass(adapter, objective, task.batch_of(typical), device)
    trained = sum(p.numel() for p in adapter.parameters())
    evaluations = len(plan.evaluate_after) * evaluation_seconds
    more = _OPTIMIZER_BYTES + (_KEPT_BYTES * (1 + settings.guard) if device.type == "cpu" else 0)
    return Estimate(passes * seconds + evaluations, memory + more * trained)


def _pass(adapter: Adapter, objective: Objective, batch: Batch, device: torch.device) -> float:
    began = time.perf_counter()
    adapter.model.train()
    objective.loss(adapter.model, to_device(batch, device)).backward()
    synchronize(device)
    for p in adapter.parameters():
        p.grad = None
    return time.perf_counter() - began
