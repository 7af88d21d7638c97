"""A machine on which a run computes, or will: its memory, how fast it is, and what earlier runs there have shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..bases.base import Base
from ..devices import pick_device
from ..errors import SettingsError
from . import record
from .calibration import measured_speed
from .run_cost import RunCost
from .speed import Speed

_NUMBER = 4  # bytes of one that is trained
_KERNEL, _MOST_KERNELS = round(0.55 * 2**20), 1024  # bytes of oneDNN's kernel for a product, and how many it keeps
_CONTEXT = 500 * 2**20  # bytes of an accelerator that a process takes before its first tensor, or less
_CUDA_BLOCK = 512  # bytes, of which what its allocator hands out is a multiple


@dataclass(frozen=True, kw_only=True)
class Machine:
    device: torch.device
    dtype: torch.dtype
    is_here: bool
    memory: float  # bytes that the run may take
    before: int  # bytes that the process takes before the model is loaded
    earlier: Sequence[record.Taken] = ()
    task: str
    samples: bool  # whether the run writes texts

    @property
    def block(self) -> int:
        """The bytes that are handed out at once."""
        return 1 if self.device.type == "cpu" else _CUDA_BLOCK

    def taken(self, cost: RunCost) -> int:
        """Return the bytes that the process takes; on an accelerator what is reserved there, and its context."""
        if self.device.type != "cpu":
            return cost.step.reserved + _CONTEXT
        lasting = cost.step.memory["weights"] + cost.step.memory["adapter"]
        more = record.kept(cost.tensor_bytes, lasting) + record.beside(self.earlier, self.task, samples=self.samples)
        return self.before + cost.tensor_bytes + round(more) + copies(cost.step.trained) + kernels(cost)

    def fits(self, cost: RunCost) -> bool:
        return self.taken(cost) <= self.memory

    def speed(self, base: Base) -> Speed | None:
        """Return how fast it computes, corrected by earlier runs; None of a machine that is not here."""
        if not self.is_here:
            return None
        return self.measured().slower(record.time_factor(self.earlier, base.name))

    def measured(self) -> Speed:
        """Return how fast it computes by what was measured alone."""
        return measured_speed(self.device, self.dtype)


def copies(trained: int, *, of_start: bool = True) -> int:
    """Return the bytes of copies on the CPU of so many numbers: the best step's, and the start's to go back to."""
    return _NUMBER * trained * (1 + of_start)


def kernels(cost: RunCost) -> int:
    """Return the bytes of what a CPU's library keeps of each matrix product of 16 bits that it has seen once."""
    return _KERNEL * min(_MOST_KERNELS, cost.step.kernels * cost.shapes)


def this_machine(
    device: torch.device, dtype: torch.dtype, memory: float, before: int, *, task: str, samples: bool
) -> Machine:
    """Return the machine that this process runs on, with its record."""
    earlier = record.recorded(device.type, name_of(dtype), torch.get_num_threads())
    return Machine(
        device=device,
        dtype=dtype,
        is_here=True,
        memory=memory,
        before=before,
        earlier=earlier,
        task=task,
        samples=samples,
    )


def is_here(device: torch.device) -> bool:
    try:
        pick_device(device.type)
    except SettingsError:
        return False
    return True


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
