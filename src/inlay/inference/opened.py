"""A trained adapter on its base model, opened from a run's folder or its own."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..bases.auto_class import labeller_class, no_writer, writer_class
from ..bases.base import (
    Base,
    empty_classifier,
    empty_language_model,
    find_base,
    load_classifier,
    load_language_model,
    pick_device,
)
from ..bases.shared_base import load_onto
from ..bases.vocabulary import check_vocabulary
from ..core.adapter import Adapter
from ..data.source import BUILTIN
from ..errors import CheckpointError, SettingsError
from ..formats import peft, places
from ..formats.base_files import fingerprint_of_files, row_digests_of_files
from ..methods import loading
from ..models.heads import task_heads
from ..models.sites import Sites
from .assumed import assumed
from .provenance import check_provenance


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
    tokenizer: Any | None  # None only if the adapter was not made by a run
    config: Any  # of the model that was trained
    provenance: dict[str, Any]
    saved: peft.Saved
    planned: Adapter  # on a model without values
    notes: tuple[str, ...] = ()  # what had to be assumed

    @property
    def classifies(self) -> bool:
        return self.provenance["task"] == "classify"

    @property
    def dtype(self) -> torch.dtype:
        """The base's in training."""
        return getattr(torch, self.provenance["dtype"])

    @property
    def packed(self) -> bool:
        """Whether the base was quantized in training."""
        return self.provenance.get("quantize") == "nf4"

    def check_reads(self) -> None:
        """Raises CheckpointError if there is no tokenizer to read texts with."""
        if self.tokenizer is None:
            raise CheckpointError(
                f"no tokenizer can be read for {self.folder}: neither {self.base.name} nor the adapter's folder has "
                "one; put its files beside the base"
            )

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

        loaded = load_onto(device, load, self.provenance["seed"], packed_for)
        drawn = set(loaded.heads) - set(task_heads(loaded.model))
        if unknown := sorted(n for n in drawn if not any(h == n or h.startswith(n + ".") for h in self.planned.heads)):
            raise CheckpointError(
                f"neither {self.base.name} nor {self.folder} has weights for {unknown[0]} of "
                f"{type(loaded.model).__name__}, which would be drawn at random; name with --model the base that the "
                "adapter was trained on"
            )
        return loaded.model

    def attached(self, loaded: nn.Module) -> Opened:
        """Raises CheckpointError if `loaded` has not the weights of the base that the adapter was trained on."""
        return Opened(loading.attach_saved(loaded, self.saved), self.base, self.tokenizer, self.provenance)


def open_adapter(folder: Path, model: str | None = None, device: str = "auto") -> Opened:
    """Raises CheckpointError if the files are damaged or the base is another one: before its weights are loaded, as
    far as its files tell.

    `model` names the base if it is not where it was when the adapter was trained.
    """
    where = pick_device(device)
    return find_adapter(folder, model).as_trained(where)


def find_adapter(folder: Path, model: str | None = None, *, fetch: bool = False) -> Found:
    """Raises CheckpointError if the files are damaged or do not belong together; loads no weights.

    A base that only the adapter's files name is looked for on this machine, and on a hub only with `fetch`.
    """
    saved = peft.read(folder)
    folder, provenance = saved.folder, dict(saved.provenance)
    check_provenance(folder, provenance)
    if "data" in provenance:
        path = places.found(provenance["data"]["path"], folder, provenance.get(places.PLACES, {}).get("data"))
        provenance["data"] = provenance["data"] | {"path": path}
    base = find_base(model) if model is not None else _own_base(saved, fetch)
    notes: tuple[str, ...] = ()
    if "task" in provenance:
        tokenizer = base.tokenizer()
    else:
        tokenizer = _tokenizer(base, folder)
        guess = assumed(folder, saved.config, saved.tensors, base, tokenizer)
        provenance, notes = guess.provenance | provenance, guess.notes
    if provenance["task"] not in ("classify", "causal"):
        raise CheckpointError(f"{folder} is for the task {provenance['task']!r}, which this version does not have")
    classifies = provenance["task"] == "classify"
    if not classifies and (kind := no_writer(base.config)) is not None:
        raise CheckpointError(f"{folder} writes texts, and {base.name} is {kind}; name with --model the base it is for")
    pad = getattr(tokenizer, "pad_token_id", None)
    config = base.classifier_config(tuple(provenance["labels"]), pad) if classifies else base.config

    empty = empty_classifier(config) if classifies else empty_language_model(config)
    try:
        planned, _ = loading.match(empty, saved)
    except CheckpointError as problem:
        raise CheckpointError(f"{folder} does not fit {base.name}: {problem}") from None
    if tokenizer is not None:
        check_vocabulary(tokenizer, empty)
    base.check_weights(labeller_class(config) if classifies else writer_class(config), config if classifies else None)
    found = fingerprint_of_files(Path(base.path), Sites(empty, ()))
    trained_on = provenance.get("base_fingerprint")
    if None not in (found, trained_on) and found != trained_on:
        raise CheckpointError(peft.wrong_base(folder, base.name, str(trained_on), str(found)))
    peft.check_rows(folder, empty, row_digests_of_files(Path(base.path), Sites(empty, ()), planned.deltas))
    return Found(folder, base, tokenizer, config, provenance, saved, planned, notes)


def _own_base(saved: peft.Saved, fetch: bool) -> Base:
    folder, name = saved.folder, saved.provenance.get("model") or saved.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder} does not say which base model it belongs to; name it with --model")
    seen = saved.provenance.get(places.PLACES, {}).get("model")
    path = places.found(name, folder, seen, "config.json")
    try:
        return find_base(path, fetch=fetch)
    except SettingsError as problem:
        if os.path.isdir(path) or path.startswith(BUILTIN):
            raise CheckpointError(f"{folder} belongs to a base model that cannot be used: {problem}") from None
        fetched = "" if fetch else ", or let it be fetched with --allow-download if it is on a hub"
        raise CheckpointError(
            f"{folder} belongs to the base model {name!r}, which is neither a folder here nor in the local cache; name "
            f"it with --model{fetched}"
        ) from None


def _tokenizer(base: Base, folder: Path) -> Any | None:
    """The base's, or one that was saved beside the adapter; None if neither can be read."""
    for place in (base, Base(str(folder), str(folder), base.config, fetch=False)):
        try:
            return place.tokenizer()
        except SettingsError:
            continue
    return None
