"""A trained classifier, opened from a run's folder or an adapter's, on its base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attached.adapter import Adapter
from ..bases.base import pick_device
from ..bases.vocabulary import check_ids
from ..core.active import using
from ..data.classification import Example
from ..errors import CheckpointError
from ..tasks.batches import Tokens, tokenize, tokenize_split
from ..tasks.scores import ClassScores, evaluate, log_probabilities
from .opened import Found, find_adapter


@dataclass(frozen=True)
class Classifier:
    adapter: Adapter
    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int
    provenance: dict[str, Any]

    def log_probabilities(self, texts: list[tuple[str, str | None]]) -> Tensor:
        """(texts, labels), on the CPU. Raises SettingsError for a token that the model cannot read."""
        rows = tokenize(self.tokenizer, texts, self.max_length)
        check_ids(self.tokenizer, self.adapter.model, (row["input_ids"] for row in rows))
        return log_probabilities(self.adapter.model, self.tokenizer, rows)

    def scores(self, examples: list[Example]) -> ClassScores:
        return evaluate(self.adapter.model, self.tokenizer, self._tokens(examples))[0]

    def base_scores(self, examples: list[Example]) -> ClassScores | None:
        """The base's, with the new head as it was before training; None if the adapter changed the base itself."""
        if not self.adapter.removable:
            return None
        with using(self.adapter.model):
            return self.scores(examples)

    def _tokens(self, examples: list[Example]) -> Tokens:
        tokens = tokenize_split(self.tokenizer, examples, self.max_length)
        check_ids(self.tokenizer, self.adapter.model, (row["input_ids"] for row in tokens.rows))
        return tokens


def open_classifier(folder: Path, model: str | None = None, device: str = "auto") -> Classifier:
    """Raises CheckpointError as `find_adapter` does, and if the adapter is no classifier's."""
    where = pick_device(device)
    return classifier_of(find_adapter(folder, model), where)


def classifier_of(found: Found, device: torch.device) -> Classifier:
    """Raises CheckpointError if the adapter is no classifier's, has no tokenizer, or its base is another one."""
    if not found.classifies:
        raise CheckpointError(f"{found.folder} writes texts; it has no labels to give")
    found.check_reads()
    about, opened = found.provenance, found.as_trained(device)
    return Classifier(opened.adapter, opened.tokenizer, tuple(about["labels"]), about["max_length"], about)
