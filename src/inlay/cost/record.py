"""What earlier runs on this machine took, beside what had been said: later figures are corrected by it.

One line a run in `record.jsonl`, in the folder that INLAY_HOME names, else in the user's cache. Where it is not, and
cannot be written, the figures are those of the trace alone.
"""

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

_LATEST = 40  # lines that count
_LONGEST = 2**20  # bytes of the file that are read


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A run's figures: what was said of it, and what it took."""

    device: str
    dtype: str
    threads: int
    task: str
    samples: bool  # whether it wrote texts
    method: str
    model: str
    said_step_seconds: float  # of a step, uncorrected
    step_seconds: float
    said_tensors: int  # bytes, at the peak
    tensors: int | None  # None: not followed
    weights: int  # bytes of the base and the adapter
    copies: int  # bytes of the adapter's copies to go back to
    kernels: int  # bytes of kernels that are kept
    before: int  # bytes of the process before the model was loaded
    process: int  # bytes at the peak
    text_seconds: float | None = None  # of a text that the base wrote; None: it wrote none, or nobody noted it

    @property
    def beside_known(self) -> int:
        """The bytes beside tensors that are told by themselves."""
        return self.copies + self.kernels


def record(taken: Taken) -> None:
    """Add a run to the record."""
    with suppress(OSError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(taken)) + "\n")


def recorded(device: str, dtype: str, threads: int) -> list[Taken]:
    """Return the latest runs of such a computation on this machine, the last one last."""
    found = [each for each in _lines() if (each.device, each.dtype, each.threads) == (device, dtype, threads)]
    return found[-_LATEST:]


def all_recorded() -> list[Taken]:
    """Return every run on record, the last one last."""
    return _lines()


def time_factor(runs: Sequence[Taken], model: str) -> float:
    """Return by how much a step takes longer than said, in the middle of the runs, of this model if there are some; 1
    if there are none."""
    own = [each for each in runs if each.model == model] or runs
    return _median(each.step_seconds / each.said_step_seconds for each in own if each.said_step_seconds > 0) or 1.0


def text_seconds(runs: Sequence[Taken], model: str) -> float | None:
    """Return what a text takes that this model writes, in the middle of the runs; None if none wrote some."""
    return _median(each.text_seconds for each in runs if each.model == model and each.text_seconds is not None)


BESIDE, BESIDE_SAMPLES = 120 * 2**20, 380 * 2**20
"""Bytes that a process takes beside its tensors once it computes: libraries, kernels, threads. So long as no run of the
kind is on record. Texts take more, to score them and for a kernel of every length that is written."""
KEPT = 0.35
"""The share of what comes and goes in a step that a CPU's allocator holds when it is gone."""


def kept(tensors: int, lasting: int) -> float:
    """Return the bytes that the allocator holds, where `lasting` of the tensors' stay from step to step."""
    return KEPT * (tensors - lasting)


def of_kind(runs: Sequence[Taken], task: str, *, samples: bool) -> list[Taken]:
    """Return the runs of the task, those that wrote texts or those that did not."""
    return [each for each in runs if (each.task, each.samples) == (task, samples)]


def beside(runs: Sequence[Taken], task: str, *, samples: bool) -> float:
    """Return the bytes beside tensors and what is kept: rather more than less of what earlier runs of the task had,
    those that wrote texts or those that did not."""
    found = [
        each.process - each.before - each.said_tensors - each.beside_known - kept(each.said_tensors, each.weights)
        for each in of_kind(runs, task, samples=samples)
    ]
    return max(0.0, _high(found)) if found else BESIDE_SAMPLES if samples else BESIDE


def _high(values: Sequence[float]) -> float:
    """Return the value above which a quarter of them lies."""
    return sorted(values)[3 * (len(values) - 1) // 4]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None


def _lines() -> list[Taken]:
    """Read the record; lines that are damaged, or of another version, do not count."""
    found = []
    with suppress(OSError, ValueError):
        with _path().open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST))
            lines = file.read().decode("utf-8", "replace").splitlines()
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                found.append(_taken(json.loads(line)))
    return found


def _taken(values: dict[str, Any]) -> Taken:
    values = {"text_seconds": None} | values  # which earlier versions did not note
    for field in fields(Taken):
        kind: Any = float | int if field.type is float else field.type
        if not isinstance(values[field.name], kind):
            raise TypeError(field.name)
    return Taken(**values)


def home() -> Path:
    """Return the folder of what is known of this machine."""
    own = os.environ.get("INLAY_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(cache) / "inlay"


def _path() -> Path:
    return home() / "record.jsonl"
