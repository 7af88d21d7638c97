"""How much memory the process takes, now and at most."""

import sys

import psutil
import torch


def memory_bytes(device: torch.device) -> int:
    """In use now: on an accelerator what its tensors take, on the CPU the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was in use since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
