"""What a run will take, said before its first step, from passes that change nothing.

A step on the largest batch of the run is followed, as it was beforehand without values, so that both can be told beside
each other. The batch nearest to the average size, after it, tells the time of a step by its tokens, and the base's
evaluation, which has been timed, that of the others.
"""

import statistics
import time
from dataclasses import dataclass

import torch

from .. import processes
from ..attached.adapter import Adapter
from ..batches.batch import Batch, divided, to_device
from ..batches.objective import Objective
from ..core.method import Method
from ..cost.machine import copies
from ..cost.run_cost import Way, largest_batch
from ..cost.step import StepCost, follow_step
from ..devices import is_accelerator, synchronize
from ..tasks.task import Task
from .memory import peak_memory_bytes
from .schedule import Plan
from .settings import RunSettings
from .time_left import TimeLeft


@dataclass(frozen=True)
class Estimate:
    seconds: float  # of training, with its evaluations
    step_seconds: float
    memory_bytes: int  # of the process, or of an accelerator's tensors
    step: StepCost  # as it was followed with values

    def time_left(self, plan: Plan) -> TimeLeft:
        """Start the clock of a training that is planned so."""
        evaluations = self.seconds - plan.steps * self.step_seconds
        return TimeLeft(plan.steps, plan.evaluate_after, self.step_seconds, evaluations / len(plan.evaluate_after))

    def facts(self) -> dict[str, object]:
        """Return what a run tells of it: the memory is that of each of its processes."""
        return {
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "tensor_bytes": self.step.peak,
            "processes": processes.count(),
        }


def estimate(
    adapter: Adapter,
    plan: Plan,
    settings: RunSettings[Method],
    task: Task,
    objective: Objective,
    evaluation_seconds: float,
    way: Way,
    said_bytes: int | None = None,
) -> Estimate:
    """Estimate time and memory; the adapter, its gradients and the random state stay as they were.

    `said_bytes` is the memory that was told before; it is at least what the process has come to.
    """
    device = next(adapter.model.parameters()).device
    batches = {tuple(rows): task.size(rows) for rows in task.order(settings.rows_at_once, settings.seed)}
    average = statistics.mean(batches.values())
    typical = min(batches, key=lambda rows: abs(batches[rows] - average))
    passes = plan.steps * way.own_rounds

    with torch.random.fork_rng([device] if is_accelerator(device) else []):
        parts = divided(largest_batch(task, way, plan.epochs, settings.seed)[0], way.micro_batch_size)
        shown = [to_device(part, device) for part in parts[:2]]
        step = follow_step(adapter, objective, shown, len(parts), settings.clip, way.block)
        memory = peak_memory_bytes(device)
        seconds = _pass(adapter, objective, task.batch_of(typical), device) * average / batches[typical]
    evaluations = len(plan.evaluate_after) * evaluation_seconds
    if said_bytes is None:
        said_bytes = memory + (copies(step.trained, of_start=settings.guard) if device.type == "cpu" else 0)
    return Estimate(passes * seconds + evaluations, way.own_rounds * seconds, max(said_bytes, memory), step)


def _pass(adapter: Adapter, objective: Objective, batch: Batch, device: torch.device) -> float:
    began = time.perf_counter()
    adapter.model.train()
    objective.loss(adapter.model, to_device(batch, device)).backward()
    synchronize(device)
    for p in adapter.parameters():
        p.grad = None
    return time.perf_counter() - began
