"""What a run is told to take before its weights are loaded, and what is chosen so that it fits."""

import copy
from dataclasses import dataclass, replace

import psutil
import torch

from .. import processes
from ..bases.quantized import quantize
from ..core.method import Method
from ..cost.machine import Machine, this_machine
from ..cost.run_cost import CHOSEN, CannotBeFollowed, RunCost, Way, run_cost
from ..cost.small_model import choose_batches
from ..devices import is_accelerator
from ..errors import DoesNotFit
from ..models.recompute import NONE
from ..models.sharding import planned_bytes
from ..models.sites import Sites
from ..show.units import bytes_text, counted
from ..tasks.task import Task
from .memory import available_memory_bytes, reset_peak_memory
from .misfit import why_not
from .prepared import Prepared
from .rows_at_once import made_to_fit, rows_at_once
from .settings import RunSettings


@dataclass(frozen=True)
class Forecast:
    """A run's cost, as far as it can be told beforehand."""

    machine: Machine
    way: Way
    cost: RunCost | None  # None: the model cannot be followed, and `note` says why
    note: str | None = None

    @property
    def told(self) -> str:
        """The way in words; that nothing is computed again goes without saying."""
        return _rows(self.way) if self.way.recompute == NONE else _told(self.way)

    @property
    def memory_bytes(self) -> int | None:
        return self.cost and self.machine.taken(self.cost)


def forecast(run: Prepared, free: int, *, may_choose: bool) -> Forecast:
    """Follow a step of the run, and choose what makes it fit, if that may be. Raises DoesNotFit if nothing does.

    `free` is the memory that the run may take, beside what the process takes already, if nothing else is asked for.
    """
    settings = run.settings
    before = psutil.Process().memory_info().rss
    asked, most = settings.memory_bytes, limit(run.device, free, before)
    memory, samples = most if asked is None else asked, run.task.most_texts(settings.samples) > 0
    machine = this_machine(run.device, run.dtype, memory, before, task=run.task.name, samples=samples)
    way, why = way_of(run, machine), None
    may_divide = may_choose and settings.micro_batch_size is None
    together = processes.count() if may_divide else 1

    task = copy.copy(run.task)
    choose_batches(task, settings.method, run.part.name)
    if may_divide:
        rows, why = rows_at_once(task, settings.batch_size, settings.seed, run.device, together)
        way = replace(way, micro_batch_size=rows if why else None)

    part = part_of_base(run.task, run.packed_for, processes.local_count()) if run.shares_base else 1

    def cost_of(way: Way) -> RunCost:
        cost = run_cost(task, way, run.plan.epochs, settings.seed)
        return cost.of_weights(part)

    try:
        cost = cost_of(way)
        if machine.fits(cost) or not may_choose:
            return Forecast(machine, way, cost, why)
        may_recompute = settings.recompute is None and not settings.stream
        chosen = made_to_fit(
            machine, task, way, cost, cost_of, among=together, may_recompute=may_recompute, may_divide=may_divide
        )
    except CannotBeFollowed as problem:
        return Forecast(machine, way, None, str(problem))
    reset_peak_memory(run.device)  # the machine may have been measured for that, which is no part of the run
    there = "may take" if asked is not None else "there is"
    needs = f"takes about {bytes_text(machine.taken(cost))}, and {there} {bytes_text(machine.memory)}"
    if not chosen.fits and (asked is not None or chosen.cost.tensor_bytes > machine.memory):
        least = machine.taken(chosen.cost)
        raise DoesNotFit(
            f"the run {needs}; with {_told(chosen.way)}{_asked(settings)} it still takes {bytes_text(least)}: "
            + why_not(chosen.way, chosen.cost, machine, cost_of)
        )
    why = f"so that the run fits: otherwise it {needs}"
    return Forecast(machine, chosen.way, chosen.cost, why if chosen.fits else f"the run may not fit: it {needs}")


def part_of_base(task: Task, packed_for: torch.dtype | None, among: int) -> float:
    """Return the part of the weights that a process has at most, of a base that so many share out."""
    empty = task.empty()
    if packed_for is not None:
        quantize(empty, packed_for)
    sites = Sites(empty)
    return planned_bytes(sites, among)[1] / planned_bytes(sites, 1)[0]


def free_memory_bytes(device: torch.device, among: int) -> int:
    """Return what a run may take more than its process takes already: of a CPU's memory the share of one of so many."""
    free = available_memory_bytes(device)
    return free if is_accelerator(device) else free // among


def limit(device: torch.device, free: int, before: int) -> int:
    """Return what a run may take where so much is free: of a CPU's memory its process, which takes so much before."""
    return free if is_accelerator(device) else free + before


def way_of(run: Prepared, machine: Machine) -> Way:
    settings = run.settings
    return Way(
        method=settings.method,
        dtype=run.dtype,
        part=run.part.name,
        packed=run.packed_for is not None,
        streamed=settings.stream,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        processes=processes.count(),
        recompute=run.recomputed,
        clip=settings.clip,
        block=machine.block,
    )


def fitted(run: Prepared, told: Forecast) -> Prepared:
    """Return the run with what was chosen for it."""
    changed = told.way.changes_from(way_of(run, told.machine))
    if not changed:
        return run
    again = told.way.recompute if "recompute" in changed else run.settings.recompute
    settings = replace(run.settings, micro_batch_size=told.way.micro_batch_size, recompute=again)
    run.task.in_parts(told.way.rows / told.way.batch_size)
    return replace(run, settings=settings, chosen=dict.fromkeys(changed, told.note or ""))


def exceeded(run: Prepared, most: int, *, then: str, when: str = "") -> str | None:
    """Say that the run came to more than it may take, and what `then`; None if it did not. On an accelerator the peak
    is of tensors alone, and nothing is said."""
    asked = run.settings.memory_bytes
    if asked is None or run.device.type != "cpu" or most <= asked:
        return None
    return f"the run came to {bytes_text(most)}{when}, more than the {bytes_text(asked)} of --memory; {then}"


def after_all(most: int, told: int | None) -> str:
    """Say what follows from a run that came to more than it may take, of which so much was told."""
    if told is None or most <= told:
        return "as was told before"
    more = f"{100 * (most / told - 1):.0f} %"
    return f"{bytes_text(told)} were told, and it took {more} more: leave as much room below a limit that is hard"


def _asked(settings: RunSettings[Method]) -> str:
    """Say that settings which were given are kept to."""
    given = [name for name in CHOSEN if getattr(settings, name) is not None]
    return f", as {' and '.join(given)} {'are' if len(given) > 1 else 'is'} given," if given else ""


def _told(way: Way) -> str:
    return f"{_rows(way)} and recompute {way.recompute}"


def _rows(way: Way) -> str:
    return f"{counted(way.rows, 'row')} at once"
