"""What each method would take on a model and data, before any weights are loaded."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import psutil
import torch

from ..attached.adapter import plan_attach
from ..bases.base import Base, find_base
from ..bases.part import part_for_texts
from ..bases.shares import check_shares
from ..bases.streaming import check_streams
from ..core.method import Method
from ..cost.busy import processor_share
from ..cost.machine import Machine, is_here, name_of, this_machine
from ..cost.record import of_kind, text_seconds
from ..cost.run_cost import RunCost, Way, run_cost
from ..cost.small_model import choose_batches
from ..data.settings import DataSettings
from ..devices import best_dtype, pick_device
from ..errors import InlayError, SettingsError
from ..methods import METHODS
from ..models.recompute import ALL, NONE
from ..tasks.task import Task
from ..tasks.unread import unread_task
from .forecast import free_memory_bytes, limit, part_of_base
from .misfit import why_not
from .plan_settings import PlanSettings
from .prepared import read_task
from .rows_at_once import made_to_fit, rows_at_once
from .schedule import make_plan
from .settings import RunSettings, check_with_stream

_CUDA_BLOCK = 512  # bytes; what its allocator hands out is a multiple


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What one method would take."""

    label: str
    method: Method
    trained_parameters: int
    file_bytes: int
    cost: RunCost
    tensor_bytes: int  # at the peak
    process_bytes: int  # with what is its own, and what its allocator keeps
    steps: int
    step_seconds: float | None  # None: of a device that is not here
    run_seconds: float | None
    fits: bool
    change: dict[str, object] = field(default_factory=dict)  # the cheapest settings with which it fits
    why_not: str = ""  # why there are none

    @property
    def memory(self) -> Mapping[str, int]:
        """The bytes of each part at the peak."""
        return self.cost.step.memory


@dataclass(frozen=True, kw_only=True)
class NotPlanned:
    """A method that does not fit the model."""

    label: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """The plan of every method, those that take least first."""

    model: str
    source: str
    device: str
    dtype: str
    batch_size: int
    longest: int  # tokens of the largest batch's rows
    memory: float  # bytes that there are
    packs: bool
    rows: Sequence[Planned | NotPlanned]
    processes: int  # that share a step, one of which takes what is told
    shard: bool  # they share the base out as well
    stream: bool  # its blocks stay in its files
    earlier_runs: int  # on this machine, by which the time is corrected
    runs_of_kind: int  # of them, by which the process is: of the task, with texts or without
    texts: int | None = 0  # that each run writes beside its training, in all; None: some, of rows that are not known
    text_seconds: float | None = None  # of each, by earlier runs of this model
    processor_share: float = 1.0  # of its threads' time that this process gets now
    skipped: Sequence[str] = ()  # rows of the data that cannot be used, in words


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A method that takes part in a plan."""

    label: str
    method: Method
    quantize: Literal["none", "nf4"] = "none"


def plan(
    model: str,
    data: DataSettings | None,
    settings: PlanSettings,
    asked: Sequence[Asked],
    watcher: Callable[[str], None] = lambda label: None,
    *,
    task: Task | None = None,
) -> PlanResult:
    """Plan every method; `watcher` hears of each as it begins. Raises SettingsError or DataError."""
    base = task.base if task is not None else find_base(model)
    task = copy.copy(task or _task(model, base, data, settings))
    machine = _machine(settings, task)
    if task.tokens.get("train") is None:
        task.tokenize(settings.max_length or min(base.positions, task.tokenizer.model_max_length, 512))
    run = _run(model, data, settings)
    part = part_for_texts(task.empty(), base.config).name
    choose_batches(task, METHODS["lora"](), part)
    rows: list[Planned | NotPlanned] = []
    for each in asked:
        watcher(each.label)
        try:
            rows.append(_planned(task, part, each, replace(run, method=each.method), settings, machine))
        except InlayError as problem:
            rows.append(NotPlanned(label=each.label, why=str(problem)))
    planned = sorted((row for row in rows if isinstance(row, Planned)), key=lambda row: row.process_bytes)
    return PlanResult(
        model=model,
        source=data.path if data is not None else f"{settings.unread_rows:,} rows of {settings.tokens} tokens",
        device=str(machine.device),
        dtype=name_of(machine.dtype),
        batch_size=settings.batch_size,
        longest=max(task.lengths("train")),
        memory=machine.memory,
        packs=task.packs,
        rows=[*planned, *(row for row in rows if isinstance(row, NotPlanned))],
        processes=settings.processes,
        shard=settings.shard,
        stream=settings.stream,
        earlier_runs=len(machine.earlier),
        runs_of_kind=len(of_kind(machine.earlier, machine.task, samples=machine.samples)),
        texts=_texts(task, settings.samples),
        text_seconds=text_seconds(machine.earlier, task.base.name),
        processor_share=processor_share() if machine.is_here and machine.device.type == "cpu" else 1.0,
        skipped=task.skipped() if data is not None else (),
    )


def _texts(task: Task, samples: int) -> int | None:
    """Count the texts that a run writes: of valid with the base and with the adapter, of test with that alone; None if
    it is not known how many rows there are."""
    most = task.most_texts(samples)
    if most and "valid" not in task.rows:
        return None
    valid, test = (min(most, task.rows.get(split, 0)) for split in ("valid", "test"))
    return 2 * valid + test


def _planned(
    task: Task, part: str | None, asked: Asked, run: RunSettings[Method], settings: PlanSettings, machine: Machine
) -> Planned:
    packed = "nf4" in (asked.quantize, settings.quantize)
    if asked.method.virtual_tokens:
        task = copy.copy(task)
        choose_batches(task, asked.method, part)
    lengths = task.lengths("train")
    count = len(lengths) if settings.tokens is None else settings.unread_rows
    steps = make_plan(count, run, task)
    size, may_divide = settings.micro_batch_size, settings.micro_batch_size is None
    if may_divide:
        size, _ = rows_at_once(task, settings.batch_size, run.seed, machine.device, settings.processes)
    way = Way(
        method=asked.method,
        dtype=machine.dtype,
        part=part,
        packed=packed,
        streamed=settings.stream,
        batch_size=settings.batch_size,
        micro_batch_size=size,
        processes=settings.processes,
        recompute=ALL if settings.stream else settings.recompute or NONE,
        block=machine.block,
    )
    if settings.shard:
        check_shares(plan_attach(task.empty(), asked.method, part=part), settings.processes)
    if settings.stream:
        check_with_stream(settings.recompute, asked.quantize, shard=settings.shard)
        check_streams(plan_attach(task.empty(), asked.method, part=part))
    base_part = part_of_base(task, machine.dtype if packed else None, settings.processes) if settings.shard else 1

    def cost_of(way: Way) -> RunCost:
        return run_cost(task, way, steps.epochs, run.seed).of_weights(base_part)

    cost = cost_of(way)
    speed = machine.speed(task.base)
    change, why = dict[str, object](), ""
    if not (fits := machine.fits(cost)):
        among = settings.processes if may_divide else 1
        may_recompute = settings.recompute is None and not settings.stream
        chosen = made_to_fit(
            machine, task, way, cost, cost_of, among=among, may_recompute=may_recompute, may_divide=may_divide
        )
        if chosen.fits:
            change = chosen.way.changes_from(way)
        else:
            why = why_not(chosen.way, chosen.cost, machine, cost_of)
    seconds = evaluations = None
    if speed is not None:
        seconds = cost.step_seconds(speed)
        share = sum(task.lengths("valid")) / (max(lengths) * way.rows) if "valid" in task.tokens else 0.0
        evaluations = len(steps.evaluate_after) * speed.seconds(cost.step.forward.of_tokens(share)) / settings.processes
    return Planned(
        label=asked.label,
        method=asked.method,
        trained_parameters=cost.step.trained,
        file_bytes=cost.step.saved_bytes,
        cost=cost,
        tensor_bytes=cost.tensor_bytes,
        process_bytes=machine.taken(cost),
        steps=steps.steps,
        step_seconds=seconds,
        run_seconds=None if seconds is None or evaluations is None else steps.steps * seconds + evaluations,
        fits=fits,
        change=change,
        why_not=why,
    )


def _run(model: str, data: DataSettings | None, settings: PlanSettings) -> RunSettings[Method]:
    """Return the settings of a run, but for its method."""
    return RunSettings(
        model=model,
        data=data or DataSettings(path="rows"),
        method=METHODS["lora"](),
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        recompute=settings.recompute,
        max_length=settings.max_length,
        epochs=settings.epochs,
        dtype=settings.dtype,
        quantize=settings.quantize,
    )


def _task(model: str, base: Base, data: DataSettings | None, settings: PlanSettings) -> Task:
    if data is not None:
        if settings.tokens is not None or settings.rows is not None:
            raise SettingsError("tokens and rows are for a plan without DATA, whose rows are counted; leave them out")
        return read_task(_run(model, data, settings), base)
    if settings.tokens is None:
        raise SettingsError("there are no rows to plan for: name DATA, or give --tokens, the length of a row")
    if settings.tokens > base.positions:
        raise SettingsError(f"tokens is {settings.tokens}; the model has room for {base.positions}")
    return unread_task(base, settings.batch_size, settings.tokens)


def _machine(settings: PlanSettings, task: Task) -> Machine:
    """Return the machine that is asked for. Raises SettingsError for a device that nobody knows."""
    device = pick_device("auto") if settings.device == "auto" else torch.device(settings.device)
    before, here = psutil.Process().memory_info().rss, is_here(device)
    samples = task.most_texts(settings.samples) > 0
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
    else:
        dtype = best_dtype(device) if here else torch.bfloat16
    if not here:
        memory = settings.memory_bytes or math.inf
        return Machine(
            device=device, dtype=dtype, is_here=False, memory=memory, before=before, task=task.name, samples=samples
        )
    most = settings.memory_bytes or limit(device, free_memory_bytes(device, settings.processes), before)
    return this_machine(device, dtype, most, before, task=task.name, samples=samples)
