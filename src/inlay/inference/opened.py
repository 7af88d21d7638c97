"""A trained adapter on its base model, opened from a run's folder or its own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..attached.adapter import Adapter, rows_of_its_own
from ..bases.base import OBJECT, Base, find_base
from ..bases.loading import load_onto
from ..bases.vocabulary import check_vocabulary
from ..batches.batch import length_step
from ..core.active import using
from ..data.source import BUILTIN
from ..devices import pick_device
from ..errors import CheckpointError, SettingsError
from ..formats import peft, places
from ..formats.base_files import fingerprint_of_files, row_digests_of_files
from ..formats.seal import CAME_PACKED
from ..methods import loading
from ..models.heads import task_heads
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer
from ..tasks import TASKS
from ..tasks.evaluation import Answer, Evaluation
from ..tasks.task import Task
from .assumed import assumed
from .provenance import check_provenance


@dataclass(frozen=True)
class Opened:
    """A trained adapter on its base, ready to answer and to be scored."""

    adapter: Adapter
    task: Task

    @property
    def model(self) -> nn.Module:
        return self.adapter.model

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.task.about

    def answer(self, inputs: Sequence[object], **options: object) -> list[Answer]:
        """Answer each input as the adapter's task does, with the task's options."""
        return self.task.answer(self.model, inputs, **options)

    def evaluate(self, task: Task, split: str) -> tuple[Evaluation | None, Evaluation]:
        """Evaluate the base and the tuned model on a split of the task's rows (evaluation.py).

        The base is None if the adapter changed it; a new head is as it was before training."""
        base = None
        if self.adapter.removable:
            with using(self.model):
                base = task.evaluate_fully(self.model, split)
        return base, task.evaluate_fully(self.model, split)


@dataclass(frozen=True)
class Found:
    """An adapter that fits its base, as far as their files tell; no weights are loaded yet."""

    folder: Path
    asked: Path  # that the user named: this one, or the run's
    task: Task  # without rows, and without a tokenizer if the adapter was not made by a run
    saved: peft.Saved
    planned: Adapter  # on a model without values
    notes: tuple[str, ...] = ()  # what had to be assumed

    @property
    def base(self) -> Base:
        return self.task.base

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.task.tokenizer

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.task.about

    @property
    def dtype(self) -> torch.dtype:
        """The base's in training."""
        return getattr(torch, self.provenance["dtype"])

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """The base's in its files; None if its configuration does not say."""
        said = getattr(self.base.config, "dtype", None)
        return getattr(torch, said) if isinstance(said, str) else said

    @property
    def packed(self) -> bool:
        """Whether the base was quantized in training."""
        return self.provenance.get("quantize") == "nf4"

    def has_form_of(self, adapter: Adapter) -> bool:
        """Tell whether the files have just the adapter's tensors, where some methods save another form of the same."""
        here, there = ({(host, name): t.shape for host, name, t in a.tensors()} for a in (self.planned, adapter))
        return here == there

    def check_reads(self) -> None:
        """Raise CheckpointError if there is no tokenizer to read texts with."""
        if self.tokenizer is None:
            raise CheckpointError(
                f"no tokenizer can be read for {self.folder}: neither {self.base.name} nor the adapter's folder has "
                "one; put its files beside the base"
            )

    def as_trained(self, device: torch.device) -> Opened:
        """Load the base and attach the adapter. Raises CheckpointError if its weights are others than in training."""
        return self.attached(self.base_as_trained(device))

    def base_as_trained(self, device: torch.device) -> nn.Module:
        """Load what the adapter was attached to, as it was before: a head has the values that it started from."""
        streamed = self.base if self.provenance.get("stream") else None
        return self._load(device, self.dtype, self.dtype if self.packed else None, streamed)

    def base_as_stored(self, device: torch.device) -> nn.Module:
        """Load the base as its files have it, in their dtype and not quantized; a head likewise."""
        return self._load(device, "auto", None)

    def _load(
        self,
        device: torch.device,
        dtype: torch.dtype | Literal["auto"],
        packed_for: torch.dtype | None,
        streamed: Base | None = None,
    ) -> nn.Module:
        seed = self.provenance["seed"]
        loaded = load_onto(device, partial(self.task.load, dtype), seed, packed_for, streamed)
        drawn = set(loaded.heads) - set(task_heads(loaded.model))
        if unknown := sorted(n for n in drawn if not any(h == n or h.startswith(n + ".") for h in self.planned.heads)):
            raise CheckpointError(
                f"neither {self.base.name} nor {self.folder} has weights for {unknown[0]} of "
                f"{type(loaded.model).__name__}, which would be drawn at random; name with --model the base that the "
                "adapter was trained on"
            )
        return loaded.model

    def attached(self, loaded: nn.Module) -> Opened:
        """Attach the adapter. Raises CheckpointError if `loaded` has not the weights of the base in training."""
        step = length_step(next(loaded.parameters()).device, self.dtype)
        return Opened(loading.attach_saved(loaded, self.saved), replace(self.task, length_step=step))


def open_adapter(folder: Path, device: str = "auto") -> Opened:
    """Open an adapter. Raises CheckpointError if the files are damaged or the base is another one: before its weights
    are loaded, as far as its files tell.
    """
    where = pick_device(device)
    return find_adapter(folder).as_trained(where)


def find_adapter(folder: Path, model: str | Base | None = None, *, fetch: bool = False) -> Found:
    """Find an adapter. Raises CheckpointError if the files are damaged or do not belong together; loads no weights.

    A base that only the adapter's files name is looked for on this machine, and on a hub only with `fetch`.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; first comes RUN_OR_ADAPTER, the folder of a run or of an adapter")
    asked, saved = folder, peft.read(folder)
    folder, provenance = saved.folder, dict(saved.provenance)
    check_provenance(folder, provenance)
    if "data" in provenance:
        path = places.found(provenance["data"]["path"], folder, provenance.get(places.PLACES, {}).get("data"))
        provenance["data"] = provenance["data"] | {"path": path}
    base = _own_base(saved, fetch) if model is None else model if isinstance(model, Base) else find_base(model)
    notes: tuple[str, ...] = ()
    if "task" in provenance:
        tokenizer = base.tokenizer()
    else:
        tokenizer = _tokenizer(base, folder)
        guess = assumed(folder, saved.config, saved.tensors, base, tokenizer)
        provenance, notes = guess.provenance | provenance, guess.notes
    if provenance["task"] not in TASKS:
        raise CheckpointError(f"{folder} is for the task {provenance['task']!r}, which this version does not have")
    kind = TASKS[provenance["task"]]
    if (why := kind.refuses(base.config)) is not None:
        raise CheckpointError(f"{folder} {kind.does}, and {base.name} is {why}; name with --model the base it is for")
    task = kind.of_adapter(base, tokenizer, provenance)
    empty = task.empty()
    try:
        planned, _ = loading.match(empty, saved)
    except CheckpointError as problem:
        raise CheckpointError(f"{folder} does not fit {base.name}: {problem}") from None
    if tokenizer is not None:
        check_vocabulary(tokenizer, empty)
    task.check_weights()
    found = fingerprint_of_files(Path(base.path), Sites(empty, ()))
    trained_on = provenance.get("base_fingerprint")
    if None not in (found, trained_on) and found != trained_on and provenance.get(CAME_PACKED) is not True:
        raise CheckpointError(peft.wrong_base(folder, base.name, str(trained_on), str(found)))
    rows = row_digests_of_files(Path(base.path), Sites(empty, ()), rows_of_its_own(planned.deltas))
    peft.check_rows(folder, empty, rows)
    return Found(folder, asked, task, saved, planned, notes)


def _own_base(saved: peft.Saved, fetch: bool) -> Base:
    folder, name = saved.folder, saved.provenance.get("model") or saved.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder} does not say which base model it belongs to; name it with --model")
    seen = saved.provenance.get(places.PLACES, {}).get("model")
    path = places.found(name, folder, seen, "config.json")
    try:
        return find_base(path, fetch=fetch)
    except SettingsError as problem:
        if os.path.isdir(path) or path.startswith((BUILTIN, OBJECT)):
            raise CheckpointError(f"{folder} belongs to a base model that cannot be used: {problem}") from None
        fetched = "" if fetch else ", or let it be fetched with --allow-download if it is on a hub"
        raise CheckpointError(
            f"{folder} belongs to the base model {name!r}, which is neither a folder here nor in the local cache; name "
            f"it with --model{fetched}"
        ) from None


def _tokenizer(base: Base, folder: Path) -> Tokenizer | None:
    """Read the base's, or one that was saved beside the adapter; None if neither can be read."""
    for place in (base, Base(str(folder), str(folder), base.config, fetch=False)):
        try:
            return place.tokenizer()
        except SettingsError:
            continue
    return None
