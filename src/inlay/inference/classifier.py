"""A trained classifier, opened from a run's folder or an adapter's, on its base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from ..core.adapter import Adapter, using
from ..core.sites import Sites
from ..data.classification import Example
from ..errors import CheckpointError
from ..formats import peft
from ..formats.base_files import fingerprint_of_files
from ..training.base import empty_classifier, find_base, load_classifier, pick_device
from ..training.batches import Tokens, tokenize, tokenize_split
from ..training.scores import ClassScores, evaluate, log_probabilities


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
    """Raises CheckpointError if the files are damaged or the base is another one: before its weights are loaded, as
    far as its files tell.

    `model` names the base if it is not where it was when the adapter was trained.
    """
    where = pick_device(device)
    folder = peft.adapter_folder(folder)
    provenance = peft.read_provenance(folder)
    if provenance.get("task") != "classify":
        raise CheckpointError(
            f"{folder}: no {peft.PROVENANCE} says that this is a classifier; in Python, inlay.load reads adapters that "
            "other programs have made"
        )
    config_of_adapter, tensors = peft.read_config(folder), peft.read_tensors(folder)
    base = find_base(model or provenance["model"])
    labels = tuple(provenance["labels"])
    tokenizer = base.tokenizer()
    config = base.classifier_config(labels, tokenizer.pad_token_id)

    empty = empty_classifier(config)
    try:
        peft.match(empty, config_of_adapter, tensors)
    except CheckpointError as problem:
        raise CheckpointError(f"{folder} does not fit {base.name}: {problem}") from None
    found = fingerprint_of_files(Path(base.path), Sites(empty, ()))
    trained_on = provenance["base_fingerprint"]
    if found is not None and found != trained_on:
        raise CheckpointError(peft.wrong_base(folder, base.name, trained_on, found))

    set_seed(provenance["seed"])
    loaded, _ = load_classifier(base, config, getattr(torch, provenance["dtype"]))
    loaded.to(where)  # pyright: ignore[reportArgumentType]
    return Classifier(peft.load(loaded, folder), tokenizer, labels, provenance["max_length"], provenance)
