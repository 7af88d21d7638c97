"""What a run trains for: its data as tokens, its model, its loss, its scores. classify.py is one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..bases.base import Base
from ..bases.vocabulary import check_ids
from ..training.batches import LENGTH_STEP, Batch
from ..training.forgetting.passages import GeneralText
from ..training.settings import RunSettings


class Scores(Protocol):
    """Scores of a model on a split; what `as_dict` holds goes into events and the summary."""

    @property
    def loss(self) -> float: ...

    def better_than(self, other: Any) -> bool:
        """Whether a run keeps this adapter rather than the one with the other scores, which may be None.

        Scores that are not finite are never better, and any that are finite are better than those."""
        ...

    def as_dict(self) -> dict[str, float]: ...

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Make the scores of which `as_dict` gave `values`."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a split."""

    scores: Any
    """Of the task's `scores`."""
    parts: Any
    """What `main_score` is the mean of, so that two models can be compared (stats.py)."""
    predictions: Any
    """What predictions.jsonl is written from, as far as there is something."""


class Baseline(Protocol):
    """What the base does with general text, kept until the tuned model can be compared."""

    def compare(self, model: nn.Module) -> dict[str, Any]:
        """What the model has forgotten, as summary.json says it."""
        ...


class Held(Protocol):
    """What holds a model to its base in training."""

    def loss(self, model: nn.Module) -> Tensor:
        """On some passages of general text, others each time."""
        ...


class Task(ABC):
    kind: ClassVar[str]  # in summary.json and provenance.json
    scores: ClassVar[type[Scores]]
    main_score: ClassVar[str]  # the one by which `better_than` goes first
    base: Base
    data: Any  # with `splits`, `source`, `format`, `columns`, `ignored_columns`, `valid_from` and `warnings`
    tokenizer: Any
    config: Any  # the model's
    tokens: Any  # of each split, once there are some
    length_step: int = LENGTH_STEP  # batches are padded to its multiples

    @classmethod
    @abstractmethod
    def prepare(cls, base: Base, settings: RunSettings[Any]) -> Self:
        """The data, read and checked. Raises DataError or SettingsError; loads no weights."""

    @abstractmethod
    def empty(self) -> nn.Module:
        """The model without values, for checks that must not wait for its weights."""

    @abstractmethod
    def check_weights(self) -> tuple[str, ...]:
        """What is to be said of the base's weights, as far as the headers of its files tell. Raises SettingsError if
        some are missing or have another shape."""

    @abstractmethod
    def load(self, dtype: torch.dtype) -> tuple[nn.Module, tuple[str, ...]]:
        """The model with its weights, and the names of its heads that are new."""

    @abstractmethod
    def tokenize(self, max_length: int) -> None:
        """Make every split's tokens; a run knows the length only when the method is known to fit."""

    def check_tokens(self, model: nn.Module) -> None:
        """Raises SettingsError if `model`, which may be empty, cannot read a token of some row."""
        check_ids(self.tokenizer, model, (row["input_ids"] for split in self.tokens.values() for row in split.rows))

    @property
    @abstractmethod
    def cut(self) -> int:
        """Rows that were longer than the length."""

    def notes(self) -> list[str]:
        """What was put right or left out in the data, for the run's log."""
        return [str(problem) for problem in self.data.warnings]

    def ready(self, model: Any) -> list[str]:
        """Choose how batches are made for this model, which has its adapter; what there is to say of it."""
        return []

    @abstractmethod
    def lengths(self, split: str) -> list[int]:
        """Tokens of each row."""

    @abstractmethod
    def contents(self, split: str) -> Iterator[Any]:
        """What each row is learned and scored by; its `repr` tells it from any other."""

    @abstractmethod
    def batches(self, batch_size: int, seed: int) -> DataLoader[Any]:
        """Load batches of the training rows, every row once an epoch; `.batch_sampler.set_epoch` before each.

        A batch with `position_ids` is packed; its rows are micro-batches."""

    @abstractmethod
    def batch_of(self, rows: Sequence[int]) -> Batch:
        """Make one batch of these training rows."""

    @abstractmethod
    def size(self, rows: Sequence[int]) -> int:
        """Tokens of their batch, with padding."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over what is learned in the batch, in float32 whatever the logits' dtype."""

    @abstractmethod
    def weight(self, batch: Batch) -> int:
        """How many things `loss` is the mean of: micro-batches count by it."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """In one pass over the rows."""

    def complete(self, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
        """What `evaluate` gave, with what takes longer and is wanted before and after training only."""
        return found

    def evaluate_fully(self, model: nn.Module, split: str) -> Evaluation:
        return self.complete(model, split, self.evaluate(model, split))

    @abstractmethod
    def write_predictions(self, path: Path, tuned: Any, base: Any) -> None:
        """What the two models, each given by its `predictions`, say of each row of valid."""

    @abstractmethod
    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> Baseline:
        """What the base, which `model` is now, does with the first passages, as many as have `tokens` together."""

    @abstractmethod
    def held(self, model: nn.Module, text: GeneralText) -> Held:
        """What holds the model to what the base, which it is now, does with the passages kept for that."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What is needed to use the adapter later, beside the base."""
