"""A row so long that it alone sets the memory of a run: its batch is padded to it."""

import math
import statistics
from collections.abc import Sequence

from ..batches.batch import LENGTH_STEP, batch_count
from ..show.units import counted
from ..tasks.task import Task

_MUCH = 2  # times the tokens of the median batch
_KEPT = 0.95  # the share of the rows that the shorter length leaves whole


def long_row_note(task: Task, batch_size: int, micro_batch_size: int, seed: int) -> str | None:
    """Say that one long row sets the memory, and with which length the run would take less; None if what is computed at
    once is never much more than usual, or rows are packed."""
    if task.packs:
        return None
    sizes = [_at_once(task, rows, micro_batch_size) for rows in task.order(batch_size, seed)]
    usual = statistics.median(sizes)
    lengths = sorted(task.lengths("train"))
    enough = lengths[int(_KEPT * (len(lengths) - 1))]
    enough += -enough % LENGTH_STEP
    if max(sizes) <= _MUCH * usual or enough >= lengths[-1]:
        return None
    cut = sum(length > enough for length in lengths)
    batch = "batch" if micro_batch_size >= batch_size else "micro-batch"
    return (
        f"the longest row, {lengths[-1]:,} tokens, sets the memory: its {batch} takes {max(sizes):,} with padding, a "
        f"usual one {usual:,.0f}; half of the rows have at most {statistics.median_high(lengths):,} tokens: "
        f"--max-length {enough} would take less, and cut {counted(cut, 'row')}"
    )


def _at_once(task: Task, rows: Sequence[int], micro_batch_size: int) -> int:
    """Count the tokens, with padding, of the largest micro-batch of a step; all are as long as the longest row."""
    largest = math.ceil(len(rows) / batch_count(len(rows), micro_batch_size))
    return task.size(rows) * largest // len(rows)
