"""The adapter that a user holds: attached, used, checked, merged, saved, detached."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.attachment import Attachment
from ..core.delta import Delta
from ..core.method import Method
from ..core.slot import Slot
from ..core.state import SLOT, commit, known_state, state_of, state_with, withdraw
from ..errors import AdapterStateError, CheckpointError, TargetError
from ..models import sharded, sharding, weights
from ..models.fingerprint import came_packed, fingerprint, row_digests
from ..models.modules import within
from ..models.sites import Sites
from ..models.tokenizer import SavesFiles
from ..models.trial import Batch
from . import check, merging
from .check import Checked
from .coverage import Coverage, coverage
from .labels import Labels, name_labels
from .replacement import Replacement


@dataclass(repr=False, eq=False, kw_only=True)
class Adapter(Attachment):
    """One attached method, and all that can be done with it."""

    method: Method
    base_fingerprint: str | None = None
    base_came_packed: bool = False  # so that the fingerprint is of that form of the base alone
    base_rows: dict[str, str] = field(default_factory=dict)  # what tells the rows of the base's embeddings apart
    labels: Labels = ()  # as its files name them

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.method}, {len(self.deltas)} hosts in {type(self.model).__name__})"

    @property
    def coverage(self) -> Coverage:
        """What of the model's body the adapter reaches, and what it leaves out and why; computed when asked."""
        return coverage(self, getattr(self.method, "targets", ()), self.method.virtual_tokens)

    @property
    def hosts_of_method(self) -> list[str]:
        """The modules that the method changes, without those of heads, which are trained whole."""
        return [name for name in self.deltas if not within(name, self.heads)]

    @property
    def is_alone(self) -> bool:
        """Whether the model has this adapter and no other, and runs it beside its base."""
        state = known_state(self.model)
        if state is None or list(state.adapters.values()) != [self]:
            return False
        return state.routing.merged is None and state.routing.lasting.names == (self.name,)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the adapter's tensors by name, whole; where processes share them out (FSDP2) all of these must call
        it.
        """
        return {name: sharded.whole(t).detach() for name, t in self._named_tensors().items()}

    def _named_tensors(self) -> dict[str, Tensor]:
        return {f"{host}.{name}" if host else name: t for host, name, t in self.tensors()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Give the adapter these values, as `state_dict` names them. Raises CheckpointError, having changed nothing,
        unless names, shapes and the kind of numbers are exactly the adapter's own.
        """
        self.check_fits(state)
        own = self._named_tensors()
        for key, tensor in state.items():
            sharded.fill(own[key].detach(), tensor)

    def check_fits(self, state: dict[str, Tensor]) -> None:
        """Raise CheckpointError, with what does not fit, if `load_state_dict` could not take this."""
        own = self._named_tensors()
        problems = [f"{key} is missing" for key in own.keys() - state.keys()]
        problems += [f"{key} has no place" for key in state.keys() - own.keys()]
        problems += [
            f"{key} has shape {tuple(state[key].shape)}, its place {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if own[key].shape != state[key].shape
        ]
        problems += [
            f"{key} has {_numbers(state[key])}, its place {_numbers(own[key])}"
            for key in own.keys() & state.keys()
            if _numbers(own[key]) != _numbers(state[key])
        ]
        if problems:
            shown = "; ".join(sorted(problems)[:5])
            more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
            raise CheckpointError(f"the tensors do not fit adapter {self.name!r}: {shown}{more}")

    def save(
        self,
        folder: str | Path,
        plain: bool = False,
        *,
        provenance: Mapping[str, object] | None = None,
        tokenizer: SavesFiles | None = None,
    ) -> None:
        """Write the adapter in Hugging Face PEFT's format, and provenance.json beside it.

        With `plain` it is a LoRA of one rank and one alpha for all layers, which clients that know nothing else read
        rightly; raises AdapterStateError, having written nothing, if the adapter has no such form. `provenance` adds
        what a later run should know; a `tokenizer` is saved beside it.

        Where processes share its tensors out (FSDP2) all of them must call this, and the first one writes.
        """
        modules = [delta if delta.removable else host for _, host, delta in self.hosts()]
        with sharded.made_whole(modules) as is_writer:
            if is_writer:
                form = self.method.format
                form.save(self, Path(folder), plain=plain, provenance=provenance, tokenizer=tokenizer)

    def merge(self, batch: Batch | None = None) -> bool:
        """Write the adapter into the base's weights; `unmerge` restores those bit for bit.

        Computed in float32 or finer and rounded once to the weight's dtype. Afterwards the adapter is active, and
        beside others it computes what it did before. The merged model is run on a few tokens and must compute what the
        adapted one does. For a model that does not read tokens give a `batch`: the arguments by name, in a sequence, or
        the only one. Returns whether that could be done: False for such a model without a batch.

        Raises AdapterStateError, having changed nothing, if the adapter changes more than weights, a weight is packed
        or shared with a layer that is not adapted alike, or another adapter is merged; VerificationFailed, with the
        base as it was, if the merged model computes something else or a number is not finite.
        """
        return merging.merge(self, batch)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base's weights back, bit for bit; the adapter stays active. Raises AdapterStateError if it is not
        merged."""
        merging.unmerge(self)

    def merge_and_detach(self, batch: Batch | None = None) -> nn.Module:
        """Leave a plain model that computes what the adapted one does, with nothing of Inlay in it; returns the model.

        A trained head becomes the model's own, with the names of its labels. `save_pretrained` then writes a checkpoint
        that needs no Inlay. Raises, having changed nothing, what `merge` raises, and AdapterStateError if another
        adapter is attached: it was trained beside other weights.
        """
        others = [name for name in state_with(self).adapters if name != self.name]
        if others:
            raise AdapterStateError(
                f"{', '.join(others)} would stay beside another base; detach first what else is there"
            )
        if state_of(self.model).routing.merged is None:
            self.merge(batch)
        merging.keep_merged(self)
        state_of(self.model).labels_are_named = False  # they are its own now
        self.detach()
        return self.model

    def check(self, batch: Batch) -> Checked:
        """Run one forward and one backward pass and say what of the adapter they reach.

        The batch is as for `merge`; with labels the model's own loss is taken. No gradient is left behind. Raises
        InertAdapter, naming every host whose weight the model uses without calling it, so that the adapter does nothing
        there. The first training step finds those too.
        """
        return check.check(self, batch)

    def detach(self) -> None:
        """Take the adapter out. With the last one gone the model is exactly what it was.

        What else was active stays active. If it was the only active one, what was active when it was attached is active
        again, as far as it is still there.
        """
        state = state_with(self)
        if not self.removable:
            raise AdapterStateError(
                f"{self.method.name} trained the base model itself, so it cannot be detached; load the base model again"
            )
        if state.routing.merged == self.name:
            self.unmerge()
        name_labels(self.model, [other.labels for other in adapters(self.model).values() if other is not self])
        withdraw(self)

    def check_mergeable(self) -> None:
        """Raise AdapterStateError if `merge` could not do it; on a model without values too."""
        merging.check_mergeable(self)


def attach(
    model: nn.Module,
    method: Method,
    name: str = "default",
    *,
    heads: Sequence[str] | None = None,
    part: str | None = None,
) -> Adapter:
    """Place `method` in `model` under `name`, freeze the base, and make this the active adapter.

    `heads` are modules trained whole and saved with the adapter (PEFT's modules_to_save); by default the head that a
    task model, such as a classifier, has outside its pretrained base. `part` names a module of the base to which the
    adapter is kept: `models.language_model.language_model(model)` is the one that reads texts, where there are other
    towers. Other adapters stay and no longer run, unless `activate` or `using` names them; detaching this one makes
    what was active before it active again. Raises TargetError or AdapterStateError, having changed nothing, if the
    method does not fit the model.
    """
    adapter = plan_attach(model, method, name, heads=heads, part=part)
    commit(adapter)
    return adapter


def plan_attach(
    model: nn.Module,
    method: Method,
    name: str = "default",
    *,
    heads: Sequence[str] | None = None,
    part: str | None = None,
) -> Adapter:
    """Make the adapter that `attach` would attach, with every check made and nothing changed."""
    weights.keep_trainable(model)
    others = _others(model, name)
    if not sharding.takes_adapters(model):
        sharded.check_takes_adapters(model)
    sites = Sites(model, None if heads is None else tuple(heads), part)
    deltas = dict(method.place(sites))
    for host_name, host in sites.head_hosts():
        if host_name not in deltas:
            deltas[host_name] = Replacement(host, tuple(n for n, p in host._parameters.items() if p is not None))
    whole = sites if part is None else Sites(model, sites.heads)
    adapter = Adapter(
        name=name,
        made_by=method.name,
        method=method,
        model=model,
        deltas=deltas,
        heads=sites.heads,
        part=part,
        base_fingerprint=fingerprint(whole),
        base_came_packed=came_packed(whole),
        base_rows=row_digests(whole, rows_of_its_own(deltas)),
    )
    if others and not adapter.removable:
        raise AdapterStateError(f"{method.name} trains the base itself; detach {', '.join(others)} first")
    for host_name in deltas:
        if hasattr(host := sites.module(host_name), SLOT) and not isinstance(getattr(host, SLOT), Slot):
            raise TargetError(f"{host_name} has an attribute {SLOT!r} of its own, which is where adapters are put")
    return adapter


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Return the adapters attached to `model`, by name."""
    state = known_state(model)
    return {name: each for name, each in state.adapters.items() if isinstance(each, Adapter)} if state else {}


def rows_of_its_own(deltas: Mapping[str, Delta]) -> set[str]:
    """Name the hosts whose rows an adapter has in its own file, where it trains or replaces what the host has."""
    return {name for name, delta in deltas.items() if not delta.removable or delta.replaces}


def _others(model: nn.Module, name: str) -> dict[str, Attachment]:
    """Return the adapters that are there already. Raises AdapterStateError if another one cannot join
    them as `name`.
    """
    _check_name(name)
    state = known_state(model)
    if state is None:
        return {}
    if name in state.adapters:
        raise AdapterStateError(
            f"{type(model).__name__} already has an adapter {name!r}; detach it or choose another name"
        )
    if state.routing.merged is not None:
        raise AdapterStateError(f"adapter {state.routing.merged!r} is merged; unmerge it before attaching another")
    for other in state.adapters.values():
        if not other.removable:
            raise AdapterStateError(f"adapter {other.name!r} ({other.made_by}) trains the base itself; it stays alone")
    return state.adapters


def _numbers(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "real numbers"
    if tensor.dtype == torch.bool:
        return "booleans"
    return "complex numbers" if tensor.is_complex() else "whole numbers"


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AdapterStateError(
            f"adapter name {name!r}: use letters, digits, _ and -, since it is part of tensor names"
        )
    if hasattr(Slot, name) or name in nn.Module().__dict__ or name in ("routing", "hooks"):
        raise AdapterStateError(f"adapter name {name!r} is an attribute of every torch module; choose another one")
