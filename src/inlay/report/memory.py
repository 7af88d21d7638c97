"""The memory of a run, part by part: what was told before its base was loaded, beside what it took."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..formats.summary import Summary
from ..show.memory_parts import PARTS, MemoryPart
from ..show.table import Column, Table
from ..show.units import UNKNOWN, bytes_text, signed, text_or_unknown

_LEAST = 1024  # bytes; a part with fewer is left out
_CPU = (
    "The parts are those at the moment when the tensors take most. Tensors are counted exactly, operation by "
    "operation, on a step with the longest rows. The process takes more: libraries, and freed memory "
    "that the allocator keeps."
)
_ACCELERATOR = (
    "The parts are those at the moment when the tensors take most. They are counted exactly, operation by "
    "operation, on a step with the longest rows. Kernels take workspace beside them, which only what was in use shows."
)


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """The table, its explanation, and the words in it."""

    table: Table
    sentence: str
    words: tuple[MemoryPart, ...]


def memory_section(summary: Summary) -> MemorySection | None:
    """Return the parts of a run's memory; None of a run whose tensors were not followed, as by earlier versions."""
    told, taken = (summary.get("plan") or {}).get("tensors"), summary.get("tensors")
    if not told and not taken:
        return None
    shown = tuple(part for part in PARTS if any(part.size(each) >= _LEAST for each in (told, taken) if each))
    rows = [(part.name, part.size(told) if told else None, part.size(taken) if taken else None) for part in shown]
    rows.append(("all tensors", sum(told.values()) if told else None, sum(taken.values()) if taken else None))
    rows += _beside(summary)
    return MemorySection(
        table=Table(
            columns=[Column(name=name, right=bool(name)) for name in ("", "planned", "actual", "difference")],
            rows=[
                [name, *(text_or_unknown(bytes_text, value) for value in values), _difference(*values)]
                for name, *values in rows
            ],
        ),
        sentence=_ACCELERATOR if summary.get("device_memory") else _CPU,
        words=shown,
    )


def _beside(summary: Summary) -> Iterator[tuple[str, int | None, int | None]]:
    """Return the lines of what has been measured from outside: the process, or an accelerator's memory."""
    told = (summary.get("plan") or {}).get("memory_bytes")
    if (found := summary.get("device_memory")) is None:
        yield "the process", told, summary.get("peak_memory_bytes")
        return
    yield "in use by tensors", told, found["allocated_bytes"]
    yield "held by PyTorch", None, found["reserved_bytes"]
    yield "beside it", None, found["beside_bytes"]


def _difference(told: int | None, taken: int | None) -> str:
    if told is None or taken is None:
        return UNKNOWN
    if told == taken:
        return "none"
    return f"{signed(100 * (taken / told - 1), 1)} %" if told else f"+{bytes_text(taken)}"
