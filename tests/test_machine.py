"""What the machine refuses, as libraries say it."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from inlay.errors import DiskFailed, DoesNotFit, InlayError, InvalidRequest, SettingsError
from inlay.machine import as_far_as_possible, refusal, refusals


def os_error(number: int, path: str | None = "there/file") -> OSError:
    return OSError(number, os.strerror(number), path)


def with_cause(problem: Exception, cause: Exception) -> Exception:
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    ("problem", "kind", "said"),
    [
        (os_error(errno.ENOSPC), DiskFailed, "there/file: No space left on device; make room"),
        (os_error(errno.ENOSPC, None), DiskFailed, "No space left on device; make room"),
        (os_error(errno.EDQUOT), DiskFailed, "quota"),
        (os_error(errno.EIO), DiskFailed, "there/file: Input/output error; see to the disk"),
        (os_error(errno.EMFILE), DiskFailed, "Too many open files"),
        (os_error(errno.EROFS), InvalidRequest, "there/file: Read-only file system"),
        (os_error(errno.EACCES), InvalidRequest, "there/file: Permission denied"),
        (os_error(errno.ENAMETOOLONG), InvalidRequest, "File name too long"),
        (os_error(errno.ENOMEM), DoesNotFit, "out of memory"),
        (TimeoutError("timed out"), InvalidRequest, "timed out"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), DiskFailed, "No space left on device"),
        (
            SafetensorError('Error: IoError(Os { code: 28, kind: StorageFull, message: "No space" })'),
            DiskFailed,
            "No space left on device",
        ),
        (Exception("No space left on device (os error 28)"), DiskFailed, "No space left on device"),
        (Exception("Cannot allocate memory (os error 12)"), DoesNotFit, "out of memory"),
        (MemoryError(), DoesNotFit, "out of memory; try a smaller --micro-batch-size"),
        (MemoryError("Unable to allocate 8.00 TiB for an array"), DoesNotFit, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), DoesNotFit, "when 20.00 MiB more"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), DoesNotFit, "out of memory"),
        (RuntimeError("std::bad_alloc"), DoesNotFit, "out of memory"),
        (with_cause(ValueError("while saving"), os_error(errno.ENOSPC)), DiskFailed, "No space left on device"),
        (with_cause(RuntimeError("while loading"), MemoryError()), DoesNotFit, "out of memory"),
    ],
)
def test_each_refusal_has_its_error(problem: Exception, kind: type[InlayError], said: str) -> None:
    found = refusal(problem)
    assert type(found) is kind
    assert said in str(found)
    with pytest.raises(kind) as raised, refusals():
        raise problem
    assert raised.value.__cause__ is problem
    with as_far_as_possible():
        raise problem


def test_what_torch_says_of_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55, dtype=torch.uint8)
    found = refusal(raised.value)
    assert isinstance(found, DoesNotFit)
    assert f"when {1 << 55} bytes more were asked for" in str(found)


@pytest.mark.parametrize("problem", [ValueError("a bug"), RuntimeError("shape mismatch"), KeyError("x"), IndexError()])
def test_a_bug_stays_one(problem: Exception) -> None:
    assert refusal(problem) is None
    for guard in (refusals, as_far_as_possible):
        with pytest.raises(type(problem)), guard():
            raise problem


def test_what_inlay_says_itself_stays_as_it_is() -> None:
    said = SettingsError("out of memory is not what this says")
    assert refusal(said) is None
    with pytest.raises(SettingsError) as raised, refusals():
        raise said
    assert raised.value is said


def test_free_memory_is_what_the_processs_own_limit_leaves() -> None:
    code = (
        "import resource, psutil, torch\n"
        "from inlay.training.memory import available_memory_bytes as free\n"
        "whole = free()\n"
        "taken = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 10**9, resource.RLIM_INFINITY))\n"
        "assert whole > free() > 9 * 10**8, (whole, free())\n"
        "assert free() <= 10**9\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
