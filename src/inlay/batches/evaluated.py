"""Rows that a model only reads, to be scored or measured: in batches of like length, which a run's processes share.

A batch has the same rows however many processes there are, so that each row gets the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..models.sharded import is_sharded, reading
from ..models.tokenizer import Tokenizer
from ..processes import count, shared
from ..under_way import in_parts
from .batch import LENGTH_STEP, Batch, pad, to_device

R = TypeVar("R")

_TEXTS = 32  # of a batch


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Divide rows into batches of their numbers, the longest first so that memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def of_rows(batches: Sequence[Sequence[int]], found: Sequence[Sequence[R]]) -> list[R]:
    """Order what was found for the rows of each batch by the rows' numbers."""
    rows = dict(zip(chain.from_iterable(batches), chain.from_iterable(found), strict=True))
    return [rows[i] for i in range(len(rows))]


def of_batches(
    model: nn.Module,
    batches: Sequence[list[int]],
    compute: Callable[[list[int]], R],
    *,
    what: str,
    by_each: bool = False,
) -> list[R]:
    """Return what `compute` gives of each batch by calls of the model, in their order; the processes share the batches,
    or compute all of them `by_each`. Whoever shows progress is told of it as `what`."""
    compute = in_parts(what, len(batches) if by_each else -(-len(batches) // count()), compute)
    with reading(model):
        if by_each:
            return [compute(chosen) for chosen in batches]
        return shared(batches, compute, in_step=any(map(is_sharded, model.parameters())))


def of_texts(
    model: nn.Module,
    tokenizer: Tokenizer,
    rows: Sequence[Mapping[str, list[int]]],
    compute: Callable[[Batch], Tensor],
    step: int = LENGTH_STEP,
    *,
    what: str,
) -> Tensor:
    """Return (rows, …) on the CPU: what `compute` gives of each batch, which is where the model is. Leaves the model in
    evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    batches = by_length([len(row["input_ids"]) for row in rows], _TEXTS)

    def of_batch(chosen: list[int]) -> Tensor:
        return compute(to_device(pad(tokenizer, [rows[i] for i in chosen], step), device)).cpu()

    found = torch.cat(of_batches(model, batches, of_batch, what=what))
    return found[torch.tensor(list(chain.from_iterable(batches))).argsort()]
