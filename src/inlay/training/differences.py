"""How sure it is that one model is better than another on the same rows: compared part by part, not by their means.

The parts of a score can be averaged over the seeds of a method before two methods are compared, and are kept in a run's
folder for that.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..formats.files import as_json, write_text
from ..stats import student_t
from ..tasks.confusion import paired_interval

SCORE_PARTS = "score_parts.json"


@dataclass(frozen=True)
class Difference:
    """Of the task's first score, above zero where this model is better; with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """Of an accuracy: for each row whether it is right, 0 or 1; of several models, the share of them."""

    right_N: Tensor

    @classmethod
    def mean(cls, models: Sequence[Self]) -> Self:
        return cls(torch.stack([each.right_N.double() for each in models]).mean(0))

    def pairs_with(self, other: Self) -> bool:
        return len(self.right_N) == len(other.right_N)

    def gain(self, other: Self, level: float = 0.95) -> Difference:
        gains_N = self.right_N.double() - other.right_N.double()
        total, squares, rows = float(gains_N.sum()), float(gains_N.square().sum()), len(gains_N)
        return Difference(total / rows, *paired_interval(total, squares, rows, level))

    def as_dict(self) -> dict[str, Any]:
        return {"right": "".join(str(int(right)) for right in self.right_N)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        return cls(torch.tensor([int(right) for right in values["right"]]))


@dataclass(frozen=True)
class Means:
    """Of a loss: the mean of each batch, and how many tokens it is of. Rows of one batch are of like length."""

    losses_N: Tensor
    tokens_N: Tensor

    @classmethod
    def mean(cls, models: Sequence[Self]) -> Self:
        return cls(torch.stack([each.losses_N for each in models]).mean(0), models[0].tokens_N)

    def pairs_with(self, other: Self) -> bool:
        return torch.equal(self.tokens_N, other.tokens_N)

    def gain(self, other: Self, level: float = 0.95) -> Difference:
        """The interval is that of a ratio whose batches are drawn, as wide as they differ from each other."""
        shares_N = self.tokens_N / self.tokens_N.sum()
        gains_N = other.losses_N - self.losses_N
        gain = float((shares_N * gains_N).sum())
        batches = len(gains_N)
        if batches == 1:
            return Difference(gain, -float("inf"), float("inf"))
        spread = float((shares_N * (gains_N - gain)).square().sum()) * batches / (batches - 1)
        half = student_t(batches - 1, level) * spread**0.5
        return Difference(gain, gain - half, gain + half)

    def as_dict(self) -> dict[str, Any]:
        return {"losses": self.losses_N.tolist(), "tokens": self.tokens_N.tolist()}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        return cls(*(torch.tensor(values[key], dtype=torch.float64) for key in ("losses", "tokens")))


Parts = Shares | Means


def gain_of(ours: Sequence[Parts | None], theirs: Sequence[Parts | None], level: float) -> Difference | None:
    """Of one method over another, each over its models; None if these are not all known, and of the same parts."""
    every = [*ours, *theirs]
    first: Any = every[0]
    if not all(each is not None and isinstance(each, type(first)) and first.pairs_with(each) for each in every):
        return None
    return first.mean(ours).gain(first.mean(theirs), level)


def write_parts(folder: Path, parts: Mapping[str, Parts]) -> None:
    """Of each split."""
    write_text(folder / SCORE_PARTS, as_json({split: each.as_dict() for split, each in parts.items()}) + "\n")


def read_parts(folder: Path, split: str) -> Parts | None:
    """None if they are not there."""
    if not (folder / SCORE_PARTS).is_file():
        return None
    values = json.loads((folder / SCORE_PARTS).read_text(encoding="utf-8")).get(split)
    return values and (Shares.of(values) if "right" in values else Means.of(values))
