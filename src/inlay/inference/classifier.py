"""A trained classifier, opened from a run's folder or an adapter's, on its base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.adapter import Adapter, using
from ..data.classification import Example
from ..errors import CheckpointError
from ..training.batches import Tokens, tokenize, tokenize_split
from ..training.scores import ClassScores, evaluate, log_probabilities
from .opened import open_adapter


@dataclass(frozen=True)
class Classifier:
    adapter: Adapter
    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int
    provenance: dict[str, Any]

    def log_probabilities(self, texts: list[tuple[str, str | None]]) -> Tensor:
        """(texts, labels), on the CPU."""
        return log_probabilities(self.adapter.model, self.tokenizer, tokenize(self.tokenizer, texts, self.max_length))

    def scores(self, examples: list[Example]) -> ClassScores:
        return evaluate(self.adapter.model, self.tokenizer, self._tokens(examples))[0]

    def base_scores(self, examples: list[Example]) -> ClassScores | None:
        """The base's, with the new head as it was before training; None if the adapter changed the base itself."""
        if not self.adapter.removable:
            return None
        with using(self.adapter.model):
            return self.scores(examples)

    def _tokens(self, examples: list[Example]) -> Tokens:
        return tokenize_split(self.tokenizer, examples, self.max_length)


def open_classifier(folder: Path, model: str | None = None, device: str = "auto") -> Classifier:
    """Raises CheckpointError as `open_adapter` does, and if the adapter is no classifier's."""
    opened = open_adapter(folder, model, device)
    about = opened.provenance
    if about["task"] != "classify":
        raise CheckpointError(f"{folder} writes texts; it has no labels to give")
    return Classifier(opened.adapter, opened.tokenizer, tuple(about["labels"]), about["max_length"], about)
