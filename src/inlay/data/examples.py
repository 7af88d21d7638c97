"""The examples of a task, made of rows: checked, split and counted, with what a run tells of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .formats import OpenedData, unused_columns
from .holdout import HeldableT, with_valid
from .portion import portion
from .problems import Problem, Problems

ExampleT = TypeVar("ExampleT")


@dataclass(frozen=True)
class Examples(Generic[ExampleT]):
    """What a task learns and is scored by."""

    splits: dict[str, list[ExampleT]]
    """Always train and valid, and test if the data has one; of rows to score, what there is."""
    source: str
    """The path as asked."""
    format: str
    columns: dict[str, str]
    """The column of each role."""
    ignored_columns: tuple[str, ...]
    valid_from: str
    """The file of the valid split, or how it was held out of train."""
    warnings: tuple[Problem, ...]
    """What was put right, and what the user may want to know, with a line of each kind."""
    holds_out: bool = False
    """Valid is what was held out of the rows to train on, all of it."""
    skip_faulty: float = 0.0
    """The share of a split's rows that may be left out because they cannot be used."""
    faulty: int = 0
    """How many rows were left out for that."""
    labels: tuple[str, ...] = ()
    """The name of each label id, where examples have labels."""

    def label_shares(self, split: str) -> list[float]:
        """Return what share of a split's rows has each label, by the labels' ids."""
        rows: list[Any] = list(self.splits[split])
        counts = Counter(example.label for example in rows)
        return [counts[label] / len(rows) for label in range(len(self.labels))]

    @property
    def majority(self) -> dict[str, float]:
        """The share of the most frequent label in each split: the accuracy of a model that says nothing else."""
        return {split: max(self.label_shares(split)) for split in self.splits} if self.labels else {}


HoldOut = Callable[
    [dict[str, list[HeldableT]], dict[str, str], float, Problems], tuple[dict[str, list[HeldableT]], str | None]
]


def examples_of(
    opened: OpenedData, splits: dict[str, list[HeldableT]], whole: bool, hold_out: HoldOut[HeldableT] = with_valid
) -> Examples[HeldableT]:
    """Hold out a valid split if there is none, and leave out what the settings leave out; with `whole` nothing is held
    out. Raises DataError, with a line for each kind of problem, if rows had some.
    """
    settings, source, problems = opened.settings, opened.source, opened.problems
    faulty = source.weigh(splits, problems)
    problems.raise_errors()
    valid_from: str | None = source.names.get("valid", "")
    if not whole:
        splits, valid_from = hold_out(splits, source.names, settings.valid_fraction, problems)
        if valid_from is None:
            raise problems.error()
    parts = portion(splits, source.names, settings, problems)
    return Examples(
        splits=parts,
        source=settings.path,
        format=opened.layout.format,
        columns=opened.layout.columns,
        ignored_columns=unused_columns(source.splits, opened.layout),
        valid_from=valid_from,
        holds_out=not whole and "valid" not in source.names and len(parts["valid"]) == len(splits["valid"]),
        warnings=tuple(problems.found()),
        skip_faulty=settings.skip_faulty,
        faulty=faulty,
    )
