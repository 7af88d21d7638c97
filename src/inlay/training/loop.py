"""The training loop: one function to read from top to bottom."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Self, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from ..attached.adapter import Adapter
from ..batches.batch import Batch, to_device, token_count
from ..batches.objective import Objective
from ..core.method import Method
from ..devices import free_unused
from ..errors import DoesNotFit, TrainingFailed
from ..formats.event import Event
from ..loss_scale import LossScale
from ..machine import out_of_memory
from ..tasks.metric import Scores
from .guard import Guard, Safe, Scored
from .memory import memory_bytes
from .passes import pass_through, rows_of_steps
from .progress import Progress
from .random_state import Draws
from .schedule import Plan, learning_rate_share
from .settings import RunSettings
from .shrinking import Shrunk
from .time_left import TimeLeft

_PART = 2**20  # numbers of a parameter that are read at once


@dataclass(frozen=True)
class StepEvent:
    """A step that is done."""

    step: int
    epoch: float
    loss: float  # of this step's batch
    learning_rate: float
    gradient_norm: float
    tokens: int  # trained on so far, without padding
    seconds: float  # of training so far, without evaluations

    def facts(self, steps: int, device: torch.device, left: TimeLeft) -> Event:
        """Return what a run tells of it: how fast it is, what it takes, and what is left of `steps`."""
        own = {name: value for name, value in asdict(self).items() if name != "tokens"}
        return own | {
            "steps": steps,
            "tokens_per_second": self.tokens / self.seconds,
            "memory_bytes": memory_bytes(device),
            "seconds_left": left.seconds,
            "left_is_rough": left.is_rough,
        }


class Observer(ABC):
    """Whoever scores a training and follows it; the loop itself knows of nothing but steps."""

    has_budget = False
    """Whether a step that forgets too much is not kept, however good it is."""

    @property
    def start_scores(self) -> Scores | None:
        """The scores before the first step, if the start can be kept as well as any step; None if it is no use."""
        return None

    @abstractmethod
    def evaluate(self, step: int) -> Scored:
        """Score the adapter as it is after this step."""

    def on_evaluation(self, step: int, scores: Scores, *, best: bool) -> None:
        """Take note of scores, and whether they are the best so far."""

    def on_step(self, event: StepEvent) -> None:
        """Take note of a step that is done."""

    def stays_inside(self, step: int) -> bool:
        """Tell whether the adapter, as it is after this step, forgets no more than it may."""
        return True

    def on_best(self) -> None:
        """Take note that the adapter, as it is, is the best that may be kept so far."""

    def on_return(self, guard: Guard, learning_rate: float) -> None:
        """Take note that the training went back, and goes on with this rate at its peak."""

    def shrink(self, step: int, why: str) -> Shrunk:
        """Divide the step, which ran out of memory, and those after it further. Raises DoesNotFit if it cannot."""
        raise DoesNotFit(why)

    def undivided(self) -> AbstractContextManager[object]:
        """Return the context after which, not within which, an interruption comes."""
        return nullcontext()

    def whole_step(self) -> AbstractContextManager[object]:
        """Return the context that a step runs in, which nothing should interrupt."""
        return nullcontext()


@dataclass
class Training:
    """All that the next step depends on, besides the data and the random state."""

    adapter: Adapter
    optimizer: Optimizer
    device: torch.device
    start: list[int]  # marks of the parameters from which this process trains
    progress: Progress = field(default_factory=Progress)
    changed_before: bool = False  # an earlier process has changed a parameter

    @classmethod
    def begin(
        cls,
        adapter: Adapter,
        plan: Plan,
        settings: RunSettings[Method],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Self:
        """Start at the first step, with a model that computes on this device in this dtype."""
        asked = adapter.method.parameter_groups(adapter, plan.learning_rate)
        groups = [{**group, "initial_lr": group["lr"]} for group in asked]  # lr is that of the step
        optimizer = AdamW(groups, weight_decay=settings.weight_decay, fused=device.type in ("cpu", "cuda"))
        return cls(adapter, optimizer, device, marks(adapter.parameters()), Progress(scale=LossScale.for_dtype(dtype)))

    @torch.no_grad()
    def put(self, state: Mapping[str, Tensor]) -> None:
        for name, p in self.adapter.named_parameters():
            p.copy_(state[name])

    def copied(self) -> dict[str, Tensor]:
        """Copy the parameters to the CPU."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.adapter.named_parameters()}

    def safe(self, step: int, scores: Scores | None, parameters: Mapping[str, Tensor]) -> Safe:
        """Return the training as it is, with these parameters, as what it can go back to."""
        memory = {
            host: {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
            for host, _, delta in self.adapter.hosts()
            if (state := delta.training_state())
        }
        return Safe(step, scores, parameters, memory)

    def way_back(self, done: Progress, plan: Plan) -> Safe | None:
        """Return what the training can go back to from there: the safe step; or the start, if it was at that step
        before and as many steps are left as that took. None: it cannot for ever, not from the last step, and not to
        before the method has settled something for good."""
        safe, settles = done.safe, self.adapter.method.may_be_best
        if safe is None or not done.guard.may_return or done.step == plan.steps:
            return None
        again = done.guard.was_at(safe.step) and plan.steps - done.step >= safe.step
        for goal in (done.start if again else None, safe):
            if goal is None or done.step <= max(1, goal.step):
                continue
            if settles(goal.step, plan.steps) or not settles(done.step, plan.steps):
                return goal
        return None

    @torch.no_grad()
    def go_back(self, done: Progress, to: Safe, guard: Guard) -> None:
        """Put the parameters, and what the method remembers, where they were at a safe step; AdamW begins anew."""
        self.put(to.parameters)
        for host, _, delta in self.adapter.hosts():
            if (memory := to.memory.get(host)) is not None:
                delta.load_training_state({name: tensor.to(self.device, copy=True) for name, tensor in memory.items()})
        for averages in self.optimizer.state.values():
            for tensor in averages.values():
                tensor.zero_()
        self.optimizer.zero_grad()
        self.progress = replace(done, guard=guard, safe=to, without_better=0)

    @contextmanager
    def at(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the parameters these values for as long as the block runs."""
        now = {name: p.detach().clone() for name, p in self.adapter.named_parameters()}
        self.put(state)
        try:
            yield
        finally:
            self.put(now)

    @property
    def changed(self) -> bool:
        return self.changed_before or marks(self.adapter.parameters()) != self.start


def marks(tensors: Iterable[Tensor]) -> list[int]:
    """Sum the bits of each tensor, read as integers: no copy is kept to see whether it has changed."""
    return [sum(int(part.view(torch.int32).sum()) for part in p.detach().flatten().split(_PART)) for p in tensors]


def fit(
    training: Training,
    objective: Objective,
    batches: DataLoader[object],
    plan: Plan,
    settings: RunSettings[Method],
    observer: Observer,
) -> None:
    """Train the adapter on the objective, from wherever `training` is, until it has the best step's parameters.

    Inside the observer's `whole_step` the training is between two states, and outside always in one. Raises
    TrainingFailed if a loss, in training or on valid, or a parameter is not finite, a parameter gets no gradient, or
    nothing has changed.
    """
    adapter, optimizer = training.adapter, training.optimizer
    model, method, parameters = adapter.model, adapter.method, list(adapter.parameters())
    steps = rows_of_steps(batches, plan.steps_per_epoch, training.progress.step)
    collate = cast(Callable[[list[object]], Batch], batches.collate_fn)
    batches.collate_fn = list  # a step that does not fit in memory makes other batches of the same rows
    if training.progress.step == 0:
        _keep_start(training, plan, settings, observer)

    while True:
        done = training.progress
        if done.evaluated < done.step and done.step in plan.evaluate_after:
            if (broken := _not_finite(adapter, done.step)) is not None:
                done = replace(done, evaluated=done.step)
                if not _went_back(training, done, broken, plan, observer, by_chance=True):
                    raise TrainingFailed(f"{broken}; {_advice(plan, done)}")
                continue
            scored = observer.evaluate(done.step)
            scores, collapse = scored.scores, done.guard.collapsed(scored) if settings.guard else None
            if not math.isfinite(scores["loss"]):
                lost = f"after step {done.step} the loss on valid is {scores['loss']}"
                raise TrainingFailed(f"{lost}; {_advice(plan, done)}")
            may_be_best = method.may_be_best(done.step, plan.steps)
            better = may_be_best and objective.is_better(scores, done.best)
            if collapse and (done.best is not None or training.way_back(done, plan)):
                better = False  # by a score that hides it, such as some rows that are right by luck
            with observer.undivided():  # what is told to be the best so far is kept
                observer.on_evaluation(done.step, scores, best=better)
                before = done.safe.scores if done.safe else None
                safer = settings.guard and not collapse and scored.has_learned
                safer = safer and objective.is_better(scores, before)
                may_keep = observer.has_budget and may_be_best and not collapse
                inside = may_keep and objective.is_better(scores, done.inside.scores if done.inside else None)
                inside = inside and observer.stays_inside(done.step)
                state = training.copied() if better or safer or inside else {}
                if inside or (better and not observer.has_budget):
                    observer.on_best()
                if inside:
                    done = replace(done, inside=Safe(done.step, scores, state))
                if better:
                    done = replace(done, without_better=0, best=scores, best_step=done.step, best_state=state)
                elif may_be_best:
                    done = replace(done, without_better=done.without_better + 1)
                if safer:
                    start = done.start if 2 * done.step <= plan.steps or observer.has_budget else None
                    done = replace(done, safe=training.safe(done.step, scores, state), start=start)
                done = replace(done, evaluated=done.step)
                went_back = bool(collapse) and _went_back(training, done, collapse, plan, observer)
                if not went_back:
                    training.progress = done
            if went_back:
                continue
        if done.step == plan.steps or done.without_better == settings.patience > 0:
            break
        if (explosion := done.guard.exploded()) is not None and _went_back(training, done, explosion, plan, observer):
            continue

        with observer.whole_step():
            step, rows = done.step + 1, next(steps)
            began = time.perf_counter()
            model.train()
            share = learning_rate_share(done.step, plan, done.guard)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            scale, draws = done.scale, Draws(settings.seed, step, training.device)
            while True:
                batch = to_device(collate(rows), training.device)
                size = done.shrunk[-1].micro_batch_size if done.shrunk else settings.micro_batch_size
                try:
                    loss = pass_through(adapter, objective, batch, size, scale, draws)
                except Exception as problem:
                    if settings.on_oom == "stop" or (why := out_of_memory(problem)) is None:
                        raise
                else:
                    if step == 1:
                        _check_gradients(adapter)
                    scale.unscale_(parameters)
                    gradient_norm = float(clip_grad_norm_(parameters, settings.clip))
                    if math.isfinite(gradient_norm) or not math.isfinite(loss) or (lower := scale.lowered()) is None:
                        break
                    scale = lower  # it was too high for these rows, which are taken again
                    optimizer.zero_grad()
                    continue
                optimizer.zero_grad()  # here, where the problem is gone with all that it holds of the step
                free_unused()
                training.progress = done = replace(done, shrunk=(*done.shrunk, observer.shrink(step, why)))
            tokens = done.tokens + token_count(batch)
            learning_rate = float(optimizer.param_groups[0]["lr"])
            seconds = done.seconds + time.perf_counter() - began
            after = replace(done, step=step, tokens=tokens, seconds=seconds, scale=scale)
            if math.isfinite(loss) and math.isfinite(gradient_norm):
                optimizer.step()
                method.after_step(adapter, step, plan.steps)
                optimizer.zero_grad()
                guard = done.guard if objective.begins_least else done.guard.after(loss)
                training.progress = replace(after, guard=guard, scale=scale.after_step())
        if training.progress is done:
            what = f"step {step}: loss is {loss}, gradient norm {gradient_norm}, at learning rate {learning_rate:.2g}"
            if not _went_back(training, after, what, plan, observer, by_chance=True):
                raise TrainingFailed(f"{what}; {_advice(plan, done)}")
            continue
        observer.on_step(
            StepEvent(step, step / plan.steps_per_epoch, loss, learning_rate, gradient_norm, tokens, seconds)
        )

    if not training.changed:
        raise TrainingFailed(f"after {done.step} steps no parameter of {method.name} has changed: nothing was learned")
    training.changed_before = True
    training.put(done.best_state)


def _keep_start(training: Training, plan: Plan, settings: RunSettings[Method], observer: Observer) -> None:
    """Keep the start as what the training can go back to, and, if it is of use, as the best so far."""
    scores, done = observer.start_scores, training.progress
    if not (settings.guard or observer.has_budget or scores):
        return
    start = training.safe(0, scores, training.copied())
    goes_back = settings.guard or observer.has_budget
    done = replace(done, safe=start if settings.guard else None, start=start if goes_back else None)
    with observer.undivided():
        if scores is not None and training.adapter.method.may_be_best(0, plan.steps):
            done = replace(done, best=scores, best_state=start.parameters)
            inside = observer.has_budget and observer.stays_inside(0)
            if inside or not observer.has_budget:
                observer.on_best()
            done = replace(done, inside=start if inside else None)
        training.progress = done


def _went_back(
    training: Training, done: Progress, why: str, plan: Plan, observer: Observer, *, by_chance: bool = False
) -> bool:
    """Go back from there, if the training may, and say so. Nothing can come between `done` and that."""
    if (to := training.way_back(done, plan)) is None:
        return False
    guard = done.guard.gone_back(done.step, to.step, why, by_chance=by_chance, own=plan.own_share)
    with observer.whole_step():  # and the telling: a signal waits until that is done as well
        with observer.whole_step():
            training.go_back(done, to, guard)
        observer.on_return(guard, plan.learning_rate * guard.share)
    return True


def _advice(plan: Plan, done: Progress) -> str:
    """Say what to try in place of the rate that has failed, which may be lower than the planned one."""
    return f"try --learning-rate {plan.learning_rate * done.guard.share / 5:.1g} or --dtype float32"


@torch.no_grad()
def _not_finite(adapter: Adapter, step: int) -> str | None:
    """Say what the update has left, if it is not finite; the loss of a step is looked at before it."""
    broken = [name for name, p in adapter.named_parameters() if not bool(torch.isfinite(p).all())]
    if not broken:
        return None
    return f"step {step} left {len(broken)} of the adapter's parameters not finite, such as {broken[0]}"


def _check_gradients(adapter: Adapter) -> None:
    """Check that every parameter has a gradient: a model may read host.weight without calling the host, which bypasses
    it.
    """
    without = [name for name, p in adapter.named_parameters() if p.grad is None]
    if without:
        raise TrainingFailed(
            f"{len(without)} of the adapter's parameters get no gradient, such as {without[0]}: the model does not "
            "call these modules or does not use their results; leave them out of method.targets"
        )
