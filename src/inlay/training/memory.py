"""How much memory is taken, now and at most: on the CPU by the process, on an accelerator by its tensors.

An accelerator's memory has three parts: what tensors take ("allocated"), what PyTorch has taken for them and keeps
("reserved"), and what is in use beside that: the device's context, the workspaces of libraries, other programs. Apple's
GPUs count no peak; what their driver has allocated falls only when memory runs short, and is taken for it.
"""

import ctypes
import gc
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from ..devices import free_unused, is_accelerator, module_of
from ..formats.summary import DeviceMemory

CPU = torch.device("cpu")
_NEAR = 0.8  # of what was told: a step can add a fifth
_FURTHER = 1.05
_SHARE = 0.05  # of the time
_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
_STATUS, _CLEAR, _CGROUP = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/sys/fs/cgroup")


def memory_bytes(device: torch.device) -> int:
    """Return what is in use now: on an accelerator what its tensors take, on the CPU the process's resident memory."""
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    if is_accelerator(device):
        return module_of(device).memory_allocated(device)
    return psutil.Process().memory_info().rss


def available_memory_bytes(device: torch.device = CPU) -> int:
    """Return what is free: of an accelerator, with what PyTorch keeps of it for no tensor; or of the machine's memory,
    or of what a container's limit or the process's own leaves, if that is less."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if is_accelerator(device):
        module = module_of(device)
        return module.mem_get_info(device)[0] + module.memory_reserved(device) - module.memory_allocated(device)
    free = psutil.virtual_memory().available
    return min([free, *_limits(), *_groups()])


def _groups() -> Iterator[int]:
    """Yield what the limits of the control groups leave that the process is in: a container's, a service's."""
    with suppress(OSError, ValueError):  # there are none
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root, names = (_CGROUP, _V2) if not controllers else (_CGROUP / "memory", _V1)
            inner = root / own.lstrip("/")
            for folder in (inner, *inner.parents):
                with suppress(OSError, ValueError):  # without a limit there is a word, or no such file
                    most, used = (int((folder / name).read_text()) for name in names)
                    yield max(0, most - used)
                if folder == root:
                    break


def _limits() -> Iterator[int]:
    """Yield what the process's own limits leave: of its addresses, and of the data in them (`ulimit -v` and `-d`)."""
    with suppress(ImportError):  # Windows has none
        import resource

        taken = psutil.Process().memory_info()
        for limit, used in ((resource.RLIMIT_AS, taken.vms), (resource.RLIMIT_DATA, getattr(taken, "data", 0))):
            most, _ = resource.getrlimit(limit)
            if most != resource.RLIM_INFINITY:
                yield max(0, most - used)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that was in use since the process began, or since `reset_peak_memory`."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if is_accelerator(device):
        return module_of(device).max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux" and (peak := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)):
        return 1024 * int(peak[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_memory(device: torch.device, beside_at_start: int | None) -> DeviceMemory | None:
    """Return the parts of an accelerator's memory; None for the CPU. `beside_at_start` is what `beside_bytes` gave."""
    if not is_accelerator(device):
        return None
    reserved = peak_memory_bytes(device) if device.type == "mps" else module_of(device).max_memory_reserved(device)
    return {
        "allocated_bytes": peak_memory_bytes(device),
        "reserved_bytes": reserved,
        "beside_bytes": beside_bytes(device),
        "beside_at_start_bytes": beside_at_start,
    }


def beside_bytes(device: torch.device) -> int | None:
    """Return what of an accelerator's memory is in use now, and not by PyTorch's tensors or for them; None if that is
    unknown, and for the CPU."""
    if device.type == "mps" or not is_accelerator(device):
        return None
    free, total = module_of(device).mem_get_info(device)
    return total - free - module_of(device).memory_reserved(device)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, and give back to the system what earlier work has freed.

    On macOS and Windows, which count from the process's begin, a CPU's figure is a run's own only in a process of its
    own; so it is, to the last kernel that a library keeps, everywhere.
    """
    gc.collect()
    if is_accelerator(device):
        free_unused()
    if is_accelerator(device) and device.type != "mps":
        module_of(device).reset_peak_memory_stats(device)
    if sys.platform != "linux":
        return
    _give_back_freed()
    with suppress(OSError):  # not every container lets one
        _CLEAR.write_text("5")  # the peak's mark goes down to what is resident now: proc_pid_clear_refs(5)


class Ceiling:
    """What a process on the CPU was told to take, and gives freed memory back to the system to stay below.

    The C library keeps what was freed, in pieces. Tensors of steps of many lengths do not fit into each other's, so
    that a process grows from step to step though none of them takes more.
    """

    def __init__(self, told: int, device: torch.device):
        self.bytes = _NEAR * told if device.type == "cpu" else math.inf
        self.not_before = 0.0

    def after_step(self) -> None:
        """Give back what is freed, once the process has come near. Not again until it has grown further, where that did
        not help, and never for more than a small part of the time."""
        began = time.perf_counter()
        if began < self.not_before or self.bytes == math.inf or memory_bytes(CPU) < self.bytes:
            return
        _give_back_freed()
        took = time.perf_counter() - began
        self.not_before = began + took / _SHARE
        self.bytes = max(self.bytes, _FURTHER * memory_bytes(CPU))


def _give_back_freed() -> None:
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # of glibc: other libraries give back by themselves
