"""What the machine refuses, in whatever words a library says it: memory, room on a disk, leave to write.

None of these is a bug in Inlay, and each has an error of its own. This is the one place that knows them apart.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DiskFailed, DoesNotFit, InlayError, InvalidRequest

_NO_MEMORY = re.compile(r"out of memory|(can't|cannot|unable to|failed to) allocate|not enough memory|bad_alloc", re.I)
_OF_RUST = re.compile(r"\(os error (\d+)\)|\bcode: (\d+), kind:")  # what safetensors and tokenizers say of the system
_SIZE = re.compile(r"tried to allocate ([\d.,]+ ?\w+)", re.I)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_BROKEN = {  # it was possible, and no longer is; all else was wrong from the beginning
    *(*_FULL, errno.EIO, errno.EFBIG, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE),
}
_DEEPEST = 8  # causes of an error that are looked at


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever the machine refuses inside into the InlayError that says so; all else passes through."""
    try:
        yield
    except Exception as problem:
        if (known := refusal(problem)) is None:
            raise
        raise known from problem


@contextmanager
def as_far_as_possible() -> Iterator[None]:
    """Let be whatever the machine refuses inside."""
    try:
        yield
    except Exception as problem:
        if not isinstance(problem, DiskFailed | DoesNotFit) and refusal(problem) is None:
            raise


def refusal(problem: BaseException) -> InlayError | None:
    """Return the error that says what the machine refused; None if `problem` is something else, or says it already."""
    if isinstance(problem, InlayError):
        return None
    if (said := out_of_memory(problem)) is not None:
        return DoesNotFit(said)
    if (found := file_problem(problem)) is None:
        return None
    if found.errno in _BROKEN:
        return DiskFailed(f"{said_of(found)}; {what_to_do(found)}")
    return InvalidRequest(f"{said_of(found)}; see that it is there and may be used, or name another")


def out_of_memory(problem: BaseException) -> str | None:
    """Return what a lack of memory, of the machine or of an accelerator, is told as; None if it is none."""
    for each in _with_causes(problem):
        text = str(each)
        found = file_problem(each) if isinstance(each, OSError) or _OF_RUST.search(text) else None
        if (
            isinstance(each, MemoryError)
            or type(each).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
            or (found is not None and found.errno == errno.ENOMEM)
            or (isinstance(each, RuntimeError) and _NO_MEMORY.search(text))
        ):
            size = _SIZE.search(text)
            asked = f" when {size[1].rstrip('.,')} more were asked for" if size else ""
            return (
                f"out of memory{asked}; try a smaller --micro-batch-size or --max-length, or a base in fewer bits by "
                "--quantize nf4"
            )
    return None


def file_problem(problem: BaseException) -> OSError | None:
    """Return the system's error of a file behind `problem`, whichever library it came through; None if it is no such
    thing.
    """
    for each in _with_causes(problem):
        if isinstance(each, OSError):
            return each
        if isinstance(each, Exception) and (match := _OF_RUST.search(str(each))):
            number = int(match[1] or match[2])
            return OSError(number, os.strerror(number))
    return None


def said_of(problem: OSError) -> str:
    """Return the path and what is wrong with it, as far as the system tells."""
    what = problem.strerror or " ".join(str(problem).split()) or type(problem).__name__
    path = problem.filename2 or problem.filename
    return f"{os.fsdecode(path)}: {what}" if isinstance(path, str | bytes | os.PathLike) else what


def what_to_do(problem: OSError) -> str:
    """Return what the user can do about it."""
    return "make room, and try again" if problem.errno in _FULL else "see to the disk, and try again"


def _with_causes(problem: BaseException) -> Iterator[BaseException]:
    """Yield the error, and those that it was raised from on purpose."""
    each: BaseException | None = problem
    for _ in range(_DEEPEST):
        if each is None:
            return
        yield each
        each = each.__cause__
