"""A task whose rows are not read: so many, each of so many tokens, for a plan that is made without data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..bases.auto_class import no_writer
from ..bases.base import Base
from ..batches.batch import padded_length
from . import TASKS
from .task import Task

_LABELS = ("0", "1")


@dataclass(frozen=True)
class UnreadRows:
    """Rows of one length, all of whose tokens are learned; one batch of them is enough, as all are alike."""

    count: int
    tokens: int
    cut: int = 0

    @property
    def lengths(self) -> list[int]:
        return [self.tokens] * self.count

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        row = {"input_ids": [0] * self.tokens, "attention_mask": [1] * self.tokens}
        return [{**row, "trained": [True] * self.tokens}] * self.count

    @property
    def labels(self) -> list[int]:
        return [0] * self.count


def unread_task(base: Base, rows: int, tokens: int) -> Task:
    """Make the task that the model is for: writing if it writes texts, else giving one of two labels."""
    name = "causal" if no_writer(base.config) is None else "classify"
    about = {"labels": _LABELS, "max_length": tokens, "format": "text", "stop": (), "room": tokens}
    task = TASKS[name].of_adapter(base, None, about)
    task.tokenizer, task.tokens = _Padding(), {"train": UnreadRows(rows, tokens)}
    return task


class _Padding:
    """What a tokenizer does for a batch of such rows."""

    pad_token_id = 0

    def pad(
        self, rows: Sequence[Mapping[str, list[int]]], return_tensors: str, pad_to_multiple_of: int
    ) -> dict[str, torch.Tensor]:
        width = padded_length(max(len(row["input_ids"]) for row in rows), pad_to_multiple_of)
        keys = ("input_ids", "attention_mask")
        return {key: torch.tensor([row[key] + [0] * (width - len(row[key])) for row in rows]) for key in keys}
