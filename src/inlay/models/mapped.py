"""Tensors that are pages of a file: they take memory only where they have been read, and that can be given back."""

import ctypes
import mmap
import re
import sys
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)", re.MULTILINE)
_DONTNEED = 4  # madvise(2): the pages of a file that nobody has written to are read again when they are needed


def is_mapped(tensor: Tensor) -> bool:
    """Tell whether the tensor's values are pages of a file; False where the system does not say so."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or sys.platform != "linux":
        return False
    begin, end = _range(tensor)
    for line in _LINE.finditer(_MAPS.read_text()):
        if int(line[1], 16) <= begin < int(line[2], 16):
            return line[3] != "0" and end <= int(line[2], 16)
    return False


def let_go(tensor: Tensor) -> None:
    """Give back the memory of a mapped tensor that nobody has written to; its values stay as they are."""
    begin, end = _range(tensor)
    page = mmap.PAGESIZE
    first, last = -(-begin // page) * page, end // page * page  # the pages that hold nothing else
    if first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)


def _range(tensor: Tensor) -> tuple[int, int]:
    begin = tensor.data_ptr()
    return begin, begin + tensor.numel() * tensor.itemsize
