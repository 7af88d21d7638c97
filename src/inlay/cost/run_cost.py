"""What a run takes: the step on its largest batch, followed without values, and how many there are of it."""

import copy
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Self, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..batches.batch import Batch, Collated, batch_count, divided
from ..core.method import Method
from ..errors import InlayError, TargetError
from ..models.document_attention import attend_by_document
from ..models.fake_tensors import true_masks
from ..models.recompute import NONE, Recomputing, chosen
from ..models.sites import Sites
from ..tasks.task import Task
from .depth import depth, depths, shallow
from .fake_model import empty_adapter, give_storage, share_storage
from .known_results import KnownResults
from .speed import Speed
from .step import StepCost, follow_step
from .work import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CHOSEN = ("micro_batch_size", "recompute")
"""The settings that may be chosen so that a run fits."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a step's cost depends on, beside the task."""

    method: Method
    dtype: torch.dtype
    part: str | None = None  # the module of the base that the method is kept to
    packed: bool = False  # the base's layers in 4 bits
    streamed: bool = False  # those of one block at a time
    batch_size: int = 16
    micro_batch_size: int | None = None
    processes: int = 1  # that share the micro-batches of a step
    recompute: str = NONE
    clip: float = 1.0
    block: int = 1  # bytes that the device hands out at once

    @property
    def rows(self) -> int:
        """The rows that are computed at once."""
        return self.micro_batch_size or self.batch_size

    @property
    def rounds(self) -> int:
        """The micro-batches of a step."""
        return batch_count(self.batch_size, self.rows)

    @property
    def own_rounds(self) -> int:
        """The micro-batches of the process that has most of them, for which the others wait."""
        return -(-self.rounds // self.processes)

    def changes_from(self, other: "Way") -> dict[str, object]:
        """Return those of the settings that may be chosen in which it differs."""
        return {name: getattr(self, name) for name in CHOSEN if getattr(self, name) != getattr(other, name)}


@dataclass(frozen=True)
class RunCost:
    """A run's cost, as far as it does not depend on the machine."""

    step: StepCost  # on the largest batch; an evaluation of as many rows keeps less
    share: float  # of the largest batch's tokens that one has on average
    shapes: int = 1  # of batches, of which no two are alike
    part: float = 1.0  # of a step's micro-batches that are one process's own

    @property
    def tensor_bytes(self) -> int:
        """The most that tensors take."""
        return self.step.peak

    def of_weights(self, part: float) -> Self:
        """Return the cost where so large a part of the weights is there."""
        weights = self.step.memory["weights"]
        left = round(part * weights)
        memory, reserved = self.step.memory | {"weights": left}, self.step.reserved - weights + left
        return replace(self, step=replace(self.step, memory=memory, reserved=reserved))

    @property
    def work(self) -> Work:
        """A process's work in an average step."""
        return self.step.work_of(self.share, self.part)

    def step_seconds(self, speed: Speed) -> float:
        """Return the time of an average step, without what processes send each other."""
        return speed.seconds(self.work)


class CannotBeFollowed(InlayError):
    """A model asks its tensors for values, so that no step can be taken without them."""


def run_cost(task: Task, way: Way, epochs: float = 1, seed: int = 0) -> RunCost:
    """Follow a step on the largest batch of the run's epochs.

    The task has its tokens and knows whether it packs them. A deep model is followed at two depths. Raises
    CannotBeFollowed.
    """
    task = copy.copy(task)
    task.in_parts(way.rows / way.batch_size)
    largest, share, shapes = largest_batch(task, way, epochs, seed)
    found = None if way.recompute.isdecimal() else depths(task.config)  # so many blocks are of the whole
    step = None if found is None else _at_depth(task, way, largest, found)
    if step is None:
        step = _followed(task, way, largest)
    return RunCost(step, share, shapes, way.own_rounds / way.rounds)


def largest_batch(task: Task, way: Way, epochs: float, seed: int) -> tuple[Batch, float, int]:
    """Return the largest batch of the first epochs, what share of its tokens the average one has, and how many sizes
    there are."""
    order, sizes = task.order(way.batch_size, seed), dict[tuple[int, ...], int]()
    for epoch in range(min(ceil(epochs), 10)):
        order.set_epoch(epoch)
        sizes |= {tuple(rows): task.size(rows) for rows in order}
    lengths = task.lengths("train")
    largest = max(sizes, key=lambda rows: (sizes[rows], sum(lengths[i] for i in rows)))
    share = sum(sizes.values()) / len(sizes) / sizes[largest]
    return task.training_batch(largest), share, len(set(sizes.values()))


_known: dict[object, StepCost] = {}  # what was followed, as runs of a comparison often are alike


def _followed(task: Task, way: Way, batch: Batch) -> StepCost:
    same = replace(way, micro_batch_size=way.rows)  # as if it had been asked for
    key = type(task), task.config.to_json_string(), repr(same), _shape(batch)
    if key not in _known:
        _known[key] = _told(task, way, batch)
    return _known[key]


def _shape(batch: Batch) -> object:
    """Return what a step's cost depends on of a batch."""
    own = (batch.documents, batch.trained and batch.trained.counts) if isinstance(batch, Collated) else ()
    return tuple((name, tuple(tensor.shape)) for name, tensor in batch.items()), own


def _told(task: Task, way: Way, batch: Batch) -> StepCost:
    try:
        return _follow(task, way, batch)
    except InlayError:
        raise
    except Exception as problem:  # of models that others wrote it may be any
        lines = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise CannotBeFollowed(
            f"a step of this model cannot be taken without values, so its cost cannot be told ({lines[:200]})"
        ) from problem


def _follow(task: Task, way: Way, batch: Batch) -> StepCost:
    adapter = empty_adapter(task.empty, way.method, way.dtype, part=way.part, packed=way.packed)
    parts = divided(batch, way.micro_batch_size)
    with FakeTensorMode() as fake, KnownResults(), true_masks():
        give_storage(adapter.model)
        if way.streamed:
            share_storage(adapter.model)
        if "position_ids" in batch:
            attend_by_document(cast("PreTrainedModel", adapter.model))
        Recomputing(chosen(Sites(adapter.model, part=way.part), way.recompute))
        shown = [_without_values(part, fake) for part in parts[:2]]
        return follow_step(adapter, task, shown, len(parts), way.clip, way.block)


def _without_values(batch: Batch, fake: FakeTensorMode) -> Batch:
    if isinstance(batch, Collated):
        return batch.mapped(fake.from_tensor)
    return {key: fake.from_tensor(tensor) for key, tensor in batch.items()}


def _with_depth(task: Task, blocks: int) -> Task:
    task = copy.copy(task)
    task.config = shallow(task.config, blocks)
    return task


def _at_depth(task: Task, way: Way, batch: Batch, found: tuple[int, int]) -> StepCost | None:
    """Return the cost of the whole by those of two depths; None if the method does not train as much of each block
    more, from these on."""
    less, more = found
    blocks = depth(task.config)
    assert blocks is not None
    try:
        near, far = (_followed(_with_depth(task, number), way, batch) for number in found)
        trained = _trained(_with_depth(task, 2 * more - less), way)
    except TargetError:  # it trains blocks that are further up
        return None
    if trained - far.trained != far.trained - near.trained:
        return None
    return near.further(far, (blocks - less) / (more - less))


def _trained(task: Task, way: Way) -> int:
    adapter = empty_adapter(task.empty, way.method, way.dtype, part=way.part, packed=way.packed)
    return sum(p.numel() for p in adapter.parameters())
