"""The training loop: one function to read from top to bottom, on accelerate."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ..core.adapter import Adapter
from ..core.method import Method
from ..errors import TrainingFailed
from .batches import Batch
from .settings import RunSettings
from .task import Scores

FINAL_SHARE = 0.1  # of the peak learning rate, at the end of the cosine


@dataclass(frozen=True)
class Plan:
    """How long a run is: fixed before it starts."""

    epochs: float
    steps: int
    steps_per_epoch: int
    learning_rate: float
    evaluate_after: frozenset[int]  # steps


class Objective(Protocol):
    """What is minimized: a task's loss, or another that takes batches of its own."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over what is learned in the batch."""
        ...

    def weight(self, batch: Batch) -> int:
        """How many things that is."""
        ...


@dataclass(frozen=True)
class StepEvent:
    step: int
    epoch: float
    loss: float  # of this step's batch
    learning_rate: float
    gradient_norm: float
    tokens: int  # trained on so far, without padding
    seconds: float  # of training so far, without evaluations


@dataclass(frozen=True)
class Outcome:
    best: Scores
    best_step: int
    steps: int
    tokens: int
    train_seconds: float  # without evaluations
    stopped_early: bool


def fit(
    adapter: Adapter,
    objective: Objective,
    batches: DataLoader[Any],
    plan: Plan,
    settings: RunSettings[Any],
    accelerator: Accelerator,
    evaluate: Callable[[int], Scores],
    on_step: Callable[[StepEvent], None],
    on_best: Callable[[int], None],
) -> Outcome:
    """Train `adapter` on the objective. `on_best` is called with the best step's parameters in place; they are there at
    the end again.

    Raises TrainingFailed if a loss is not finite, a parameter gets no gradient, or nothing has changed.
    """
    model = adapter.model
    parameters = list(adapter.parameters())
    method = adapter.method
    groups = method.parameter_groups(adapter, plan.learning_rate)
    optimizer = AdamW(groups, weight_decay=settings.weight_decay, fused=_fused(accelerator))
    schedule = LambdaLR(optimizer, lambda step: _learning_rate_share(step, plan.steps, settings.warmup))
    order = batches.batch_sampler
    batches, optimizer = accelerator.prepare(batches, optimizer)
    start = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    best_state: dict[str, Tensor] = {}
    best, best_step, without_better, tokens, train_seconds, step = None, 0, 0, 0, 0.0, 0

    for step, batch in enumerate(_steps(batches, order, plan), start=1):
        began = time.perf_counter()
        model.train()
        loss = 0.0
        for part, share in _parts(batch, settings.micro_batch_size, objective):
            part_loss = objective.loss(model, part) * share
            accelerator.backward(part_loss)
            loss += part_loss.item()
            tokens += int(part["attention_mask"].sum())
        if (penalty := method.penalty(adapter)) is not None:
            accelerator.backward(penalty)
        if step == 1:
            _check_gradients(adapter)
        norm = accelerator.clip_grad_norm_(parameters, settings.clip)
        gradient_norm = float(norm) if norm is not None else 0.0
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise TrainingFailed(
                f"step {step}: loss is {loss}, gradient norm {gradient_norm}, at learning rate "
                f"{schedule.get_last_lr()[0]:.2g}; try --learning-rate {plan.learning_rate / 5:.1g} or --dtype float32"
            )
        optimizer.step()
        method.after_step(adapter, step, plan.steps)
        optimizer.zero_grad()
        train_seconds += time.perf_counter() - began
        learning_rate = float(schedule.get_last_lr()[0])
        on_step(StepEvent(step, step / plan.steps_per_epoch, loss, learning_rate, gradient_norm, tokens, train_seconds))
        schedule.step()

        if step in plan.evaluate_after:
            scores = evaluate(step)
            if not method.settled(step, plan.steps):
                continue
            if scores.better_than(best):
                best, best_step, without_better = scores, step, 0
                best_state = {name: p.detach().to("cpu", copy=True) for name, p in adapter.named_parameters()}
                on_best(step)
            else:
                without_better += 1
            if without_better == settings.patience > 0:
                break

    if all(torch.equal(p, start[name]) for name, p in adapter.named_parameters()):
        raise TrainingFailed(f"after {step} steps no parameter of {method.name} has changed: nothing was learned")
    assert best is not None
    with torch.no_grad():
        for name, p in adapter.named_parameters():
            p.copy_(best_state[name])
    return Outcome(best, best_step, step, tokens, train_seconds, step < plan.steps)


def make_plan(rows: int, settings: RunSettings[Any]) -> Plan:
    """The number of steps, and when to evaluate; the last step always is."""
    per_epoch = math.ceil(rows / settings.batch_size)
    epochs = settings.epochs or _default_epochs(settings.method, per_epoch)
    steps = max(1, round(epochs * per_epoch))
    every = per_epoch / settings.evaluations_per_epoch
    after = {max(1, round(i * every)) for i in range(1, int(steps / every) + 1)} | {steps}
    learning_rate = settings.learning_rate or settings.method.learning_rate
    return Plan(epochs, steps, per_epoch, learning_rate, frozenset(after))


def _default_epochs(method: Method, steps_per_epoch: int) -> float:
    """The method's own, or as many as have 100 steps if that is more; at most 10."""
    return min(10, max(method.epochs, math.ceil(100 / steps_per_epoch)))


def _steps(batches: DataLoader[Any], order: Any, plan: Plan) -> Iterator[Batch]:
    done = 0
    for epoch in range(math.ceil(plan.epochs)):
        order.set_epoch(epoch)
        for batch in batches:
            if done == plan.steps:
                return
            done += 1
            yield batch


def _parts(batch: Batch, size: int | None, objective: Objective) -> Iterator[tuple[Batch, float]]:
    """Micro-batches with their share of what is learned, so that their gradients add up to the whole batch's."""
    rows = len(batch["input_ids"])
    size = rows if size is None else 1 if "position_ids" in batch else size
    for start in range(0, rows, size):
        part = {key: value[start : start + size] for key, value in batch.items()}
        yield part, objective.weight(part) / objective.weight(batch)


def _learning_rate_share(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def _check_gradients(adapter: Adapter) -> None:
    """A model may read host.weight without calling the host; the adapter would be bypassed silently."""
    without = [name for name, p in adapter.named_parameters() if p.grad is None]
    if without:
        raise TrainingFailed(
            f"{len(without)} of the adapter's parameters get no gradient, such as {without[0]}: the model does not "
            "call these modules or does not use their results; leave them out of method.targets"
        )


def _fused(accelerator: Accelerator) -> bool:
    return accelerator.device.type in ("cpu", "cuda")
