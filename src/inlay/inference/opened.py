"""A trained adapter on its base model, opened from a run's folder or its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from ..core.adapter import Adapter
from ..core.sites import Sites
from ..errors import CheckpointError
from ..formats import peft
from ..formats.base_files import fingerprint_of_files
from ..training.base import (
    Base,
    empty_classifier,
    empty_language_model,
    find_base,
    load_classifier,
    load_language_model,
    pick_device,
)
from ..training.quantized import quantize


@dataclass(frozen=True)
class Opened:
    adapter: Adapter
    base: Base
    tokenizer: Any
    provenance: dict[str, Any]

    @property
    def model(self) -> nn.Module:
        return self.adapter.model


def task_of(folder: Path) -> str | None:
    """`classify` or `causal`; None for an adapter that another program has made."""
    return peft.read_provenance(peft.adapter_folder(folder)).get("task")


def open_adapter(folder: Path, model: str | None = None, device: str = "auto") -> Opened:
    """Raises CheckpointError if the files are damaged or the base is another one: before its weights are loaded, as
    far as its files tell.

    `model` names the base if it is not where it was when the adapter was trained.
    """
    where = pick_device(device)
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

    dtype, packed = getattr(torch, provenance["dtype"]), provenance.get("quantize") == "nf4"
    empty = empty_classifier(config) if classifies else empty_language_model(config)
    try:
        peft.match(empty, config_of_adapter, tensors)
    except CheckpointError as problem:
        raise CheckpointError(f"{folder} does not fit {base.name}: {problem}") from None
    found = fingerprint_of_files(Path(base.path), Sites(empty, ()))
    trained_on = provenance["base_fingerprint"]
    if found is not None and found != trained_on:
        raise CheckpointError(peft.wrong_base(folder, base.name, trained_on, found))

    set_seed(provenance["seed"])
    heads = None
    if classifies:
        loaded, heads = load_classifier(base, config, dtype)
    else:
        loaded = load_language_model(base, dtype)
    loaded.to(where)  # pyright: ignore[reportArgumentType]
    if packed:
        quantize(loaded, dtype, heads=heads)
    return Opened(peft.load(loaded, folder), base, tokenizer, provenance)
