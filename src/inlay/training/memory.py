"""How much memory the process takes, now and at most."""

import ctypes
import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR, _CGROUP = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/sys/fs/cgroup")


def memory_bytes(device: torch.device) -> int:
    """Return what is in use now: on an accelerator what its tensors take, on the CPU the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def available_memory_bytes() -> int:
    """Return what is free of the machine's memory, or of what a container's limit leaves, if that is less."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # there is no limit, or none of this kind
        free = min(free, int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    return free


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that was in use since the process began, or since `reset_peak_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux" and (peak := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)):
        return 1024 * int(peak[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, and give back to the system what earlier work has freed.

    On macOS and Windows, which count from the process's begin, a CPU's figure is a run's own only in a process of its
    own; so it is, to the last kernel that a library keeps, everywhere.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if sys.platform != "linux":
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's: others give back by themselves
        trim(0)
    with suppress(OSError):  # not every container lets one
        _CLEAR.write_text("5")  # the peak's mark goes down to what is resident now: proc_pid_clear_refs(5)
