"""A trained adapter on its base model, opened from a run's folder or its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..core.adapter import Adapter
from ..core.sites import Sites
from ..errors import CheckpointError
from ..formats import peft
from ..formats.base_files import fingerprint_of_files, row_digests_of_files
from ..training.base import (
    Base,
    empty_classifier,
    empty_language_model,
    find_base,
    load_classifier,
    load_language_model,
    pick_device,
)
from ..training.shared_base import load_onto


@dataclass(frozen=True)
class Opened:
    adapter: Adapter
    base: Base
    tokenizer: Any
    provenance: dict[str, Any]

    @property
    def model(self) -> nn.Module:
        return self.adapter.model


@dataclass(frozen=True)
class Found:
    """An adapter that fits its base, as far as their files tell; no weights are loaded yet."""

    folder: Path
    base: Base
    tokenizer: Any
    config: Any  # of the model that was trained
    provenance: dict[str, Any]
    planned: Adapter  # on a model without values

    @property
    def classifies(self) -> bool:
        return self.provenance["task"] == "classify"

    @property
    def dtype(self) -> torch.dtype:
        """Of the base in training."""
        return getattr(torch, self.provenance["dtype"])

    @property
    def packed(self) -> bool:
        """Whether the base was quantized in training."""
        return self.provenance.get("quantize") == "nf4"

    def as_trained(self, device: torch.device) -> Opened:
        """Raises CheckpointError if the weights are not those of the base that the adapter was trained on."""
        return self.attached(self.base_as_trained(device))

    def base_as_trained(self, device: torch.device) -> nn.Module:
        """What the adapter was attached to, as it was before: a head has the values that it started from."""
        return self._load(device, self.dtype, self.dtype if self.packed else None)

    def base_as_stored(self, device: torch.device) -> nn.Module:
        """The base as its files have it, in their dtype and not quantized; a head likewise."""
        return self._load(device, "auto", None)

    def _load(
        self, device: torch.device, dtype: torch.dtype | Literal["auto"], packed_for: torch.dtype | None
    ) -> nn.Module:
        def load() -> tuple[nn.Module, tuple[str, ...]]:
            if self.classifies:
                return load_classifier(self.base, self.config, dtype)
            return load_language_model(self.base, dtype), ()

        return load_onto(device, load, self.provenance["seed"], packed_for).model

    def attached(self, loaded: nn.Module) -> Opened:
        """Raises CheckpointError if `loaded` has not the weights of the base that the adapter was trained on."""
        return Opened(peft.load(loaded, self.folder), self.base, self.tokenizer, self.provenance)


def task_of(folder: Path) -> str | None:
    """`classify` or `causal`; None for an adapter that another program has made."""
    return peft.read_provenance(peft.adapter_folder(folder)).get("task")


def open_adapter(folder: Path, model: str | None = None, device: str = "auto") -> Opened:
    """Raises CheckpointError if the files are damaged or the base is another one: before its weights are loaded, as
    far as its files tell.

    `model` names the base if it is not where it was when the adapter was trained.
    """
    where = pick_device(device)
    return find_adapter(folder, model).as_trained(where)


def find_adapter(folder: Path, model: str | None = None) -> Found:
    """Raises CheckpointError if the files are damaged or do not belong together; loads no weights."""
    folder = peft.adapter_folder(folder)
    provenance = peft.read_provenance(folder)
    if (task := provenance.get("task")) not in ("classify", "causal"):
        raise CheckpointError(
            f"{folder}: no {peft.PROVENANCE} says what this adapter is for; in Python, inlay.load reads adapters that "
            "other programs have made"
        )
    config_of_adapter, tensors = peft.read_config(folder), peft.read_tensors(folder)
    base = find_base(model or provenance["model"])
    tokenizer = base.tokenizer()
    classifies = task == "classify"
    config = base.classifier_config(tuple(provenance["labels"]), tokenizer.pad_token_id) if classifies else base.config

    empty = empty_classifier(config) if classifies else empty_language_model(config)
    try:
        planned, _ = peft.match(empty, config_of_adapter, tensors)
    except CheckpointError as problem:
        raise CheckpointError(f"{folder} does not fit {base.name}: {problem}") from None
    found = fingerprint_of_files(Path(base.path), Sites(empty, ()))
    trained_on = provenance["base_fingerprint"]
    if found is not None and found != trained_on:
        raise CheckpointError(peft.wrong_base(folder, base.name, trained_on, found))
    peft.check_rows(folder, empty, row_digests_of_files(Path(base.path), Sites(empty, ()), planned.deltas))
    return Found(folder, base, tokenizer, config, provenance, planned)
