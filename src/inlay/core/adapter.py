"""The life of a named adapter: attach, use, merge, unmerge, detach."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdapterStateError, CheckpointError, TargetError
from ..models import sharded, weights
from ..models.fingerprint import fingerprint, row_digests
from ..models.modules import base_modules
from ..models.sites import Sites
from . import buffers, check, claim, merging
from .active import activate as activate
from .active import using as using
from .check import Checked
from .coverage import Coverage, coverage
from .delta import Delta
from .method import Method
from .replacement import Replacement
from .routing import Route
from .slot import Slot
from .state import State, state_of
from .watch import Watch

SLOT = "adapters"  # the attribute of a host that holds its slot


@dataclass(repr=False)
class Adapter:
    """One attached method. It holds its deltas, so nothing ever looks for parameters by their names."""

    name: str
    method: Method
    model: nn.Module
    heads: tuple[str, ...]
    deltas: dict[str, Delta]  # by host name
    base_fingerprint: str | None
    base_rows: dict[str, str]  # what tells the rows of the base's embeddings apart, see fingerprint.py
    part: str | None = None  # the module of the base that the adapter is kept to
    _before: tuple[str, ...] = field(default=(), init=False)  # what was active when it joined

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.method}, {len(self.deltas)} hosts in {type(self.model).__name__})"

    def hosts(self) -> Iterator[tuple[str, nn.Module, Delta]]:
        for host_name, delta in self.deltas.items():
            yield host_name, self.model.get_submodule(host_name), delta

    @property
    def removable(self) -> bool:
        """Whether the base is still there beneath the adapter."""
        return all(delta.removable for delta in self.deltas.values())

    @property
    def coverage(self) -> Coverage:
        """What of the model's body the adapter reaches, and what it leaves out and why; computed when asked."""
        return coverage(self)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What training changes, each tensor once, as `host.parameter`."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, p in delta.trained(host):
                if id(p) not in seen:
                    seen.add(id(p))
                    yield f"{host_name}.{name}" if host_name else name, p

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from (p for _, p in self.named_parameters())

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """What a checkpoint holds, each tensor once: (host name, parameter name, tensor)."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, tensor in delta.saved(host).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield host_name, name, tensor

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's tensors by name, whole; where processes share them out (FSDP2) all of these must call it."""
        return {name: sharded.whole(t).detach() for name, t in self._named_tensors().items()}

    def _named_tensors(self) -> dict[str, Tensor]:
        return {f"{host}.{name}" if host else name: t for host, name, t in self.tensors()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises CheckpointError, having changed nothing, unless names, shapes and the kind of numbers are exactly the
        adapter's own."""
        self.check_fits(state)
        own = self._named_tensors()
        for key, tensor in state.items():
            sharded.fill(own[key].detach(), tensor)

    def check_fits(self, state: dict[str, Tensor]) -> None:
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
        provenance: dict[str, Any] | None = None,
        tokenizer: Any | None = None,
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
                written = {"plain": plain, "provenance": provenance, "tokenizer": tokenizer}
                self.method.format.save(self, Path(folder), **written)

    def merge(self, batch: Any = None) -> bool:
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
        merging.unmerge(self)

    def merge_and_detach(self, batch: Any = None) -> nn.Module:
        """Leave a plain model that computes what the adapted one does, with nothing of Inlay in it; returns the model.

        A trained head becomes the model's own. Raises, having changed nothing, what `merge` raises, and
        AdapterStateError if another adapter is attached: it was trained beside other weights.
        """
        others = [name for name in self.attached_to().adapters if name != self.name]
        if others:
            raise AdapterStateError(
                f"{', '.join(others)} would stay beside another base; detach first what else is there"
            )
        if state_of(self.model).routing.merged is None:
            self.merge(batch)
        merging.keep_merged(self)
        self.detach()
        return self.model

    def check(self, batch: Any) -> Checked:
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
        state = self.attached_to()
        if not self.removable:
            raise AdapterStateError(
                f"{self.method.name} trained the base model itself, so it cannot be detached; load the base model again"
            )
        if state.routing.merged == self.name:
            self.unmerge()
        for _, host, delta in self.hosts():
            delta.uninstall(host)
            slot = getattr(host, SLOT)
            slot.remove(self.name)
            if not len(slot):
                slot.close()
                delattr(host, SLOT)
        del state.adapters[self.name]
        for other in state.adapters.values():
            other._before = self._without(other._before)
        state.routing.lasting = Route(self._without(state.routing.lasting.names))
        if not state.adapters:
            if state.watch is not None:
                state.watch.close()
            for name, p in self.model.named_parameters():
                p.requires_grad_(state.required_grad[name])
            for hook in state.hooks:
                hook.close()
            claim.withdraw(self.model)
            del self.model._inlay
        _forget_compiled_graphs()

    def _without(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """These names without the adapter's; if no other is left, what was active when it joined."""
        left = tuple(name for name in names if name != self.name)
        return left if left or self.name not in names else self._before

    def check_mergeable(self) -> None:
        """Raises AdapterStateError if `merge` could not do it; on a model without values too."""
        merging.check_mergeable(self)

    def attached_to(self) -> State:
        """What is remembered of the adapter's model. Raises AdapterStateError if the adapter is not in it."""
        state = state_of(self.model)
        if state.adapters.get(self.name) is not self:
            raise AdapterStateError(f"adapter {self.name!r} is not attached")
        return state


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
    adapter is kept: `core.sites.language_model(model)` is the one that reads texts, where there are other towers. Other
    adapters stay and no longer run, unless `activate` or `using` names them; detaching this one makes what was active
    before it active again. Raises TargetError or AdapterStateError, having changed nothing, if the method does not fit
    the model.
    """
    adapter = prepare(model, method, name, heads=heads, part=part)
    join(adapter)
    return adapter


def prepare(
    model: nn.Module,
    method: Method,
    name: str = "default",
    *,
    heads: Sequence[str] | None = None,
    part: str | None = None,
) -> Adapter:
    """The adapter that `attach` would attach, with every check made and nothing changed."""
    weights.keep_trainable(model)
    state = getattr(model, "_inlay", None) or State()
    _check_name(name)
    if name in state.adapters:
        raise AdapterStateError(
            f"{type(model).__name__} already has an adapter {name!r}; detach it or choose another name"
        )
    if state.routing.merged is not None:
        raise AdapterStateError(f"adapter {state.routing.merged!r} is merged; unmerge it before attaching another")
    for other in state.adapters.values():
        if not other.removable:
            raise AdapterStateError(
                f"adapter {other.name!r} ({other.method.name}) trains the base itself; it stays alone"
            )

    if any(sharded.is_sharded(p) for p in model.parameters()):
        raise AdapterStateError(
            f"{type(model).__name__} is sharded over processes already; attach or load adapters first, and shard "
            "the model with them afterwards (fully_shard), so that they are trained alike everywhere"
        )
    sites = Sites(model, None if heads is None else tuple(heads), part)
    deltas = dict(method.place(sites))
    for host_name, host in sites.head_hosts():
        if host_name not in deltas:
            deltas[host_name] = Replacement(host, tuple(n for n, p in host._parameters.items() if p is not None))
    whole = sites if part is None else Sites(model, sites.heads)
    rows = row_digests(whole, deltas)
    adapter = Adapter(name, method, model, sites.heads, deltas, fingerprint(whole), rows, part)
    if state.adapters and not adapter.removable:
        raise AdapterStateError(f"{method.name} trains the base itself; detach {', '.join(state.adapters)} first")
    for host_name in deltas:
        if hasattr(host := sites.module(host_name), SLOT) and not isinstance(getattr(host, SLOT), Slot):
            raise TargetError(f"{host_name} has an attribute {SLOT!r} of its own, which is where adapters are put")
    return adapter


def join(adapter: Adapter) -> None:
    """Put a prepared adapter into its model, freeze the base, and make it the active one."""
    model = adapter.model
    state = getattr(model, "_inlay", None)
    if state is None:
        hooks = buffers.keep(model, list(base_modules(model))) if adapter.removable else []
        state = State(required_grad={n: p.requires_grad for n, p in model.named_parameters()}, hooks=hooks)
        model.requires_grad_(False)
        model.__dict__["_inlay"] = state
        claim.make(model)
    for _, host, delta in adapter.hosts():
        if not hasattr(host, SLOT):
            setattr(host, SLOT, Slot(host, state.routing))
        delta.install(host)
        delta.train(host.training)
        for _, p in delta.trained(host):
            p.requires_grad_(True)
        getattr(host, SLOT).add(adapter.name, delta)
    state.adapters[adapter.name] = adapter
    adapter._before = state.routing.lasting.names
    state.routing.lasting = Route((adapter.name,))
    if state.watch is not None:
        state.watch.close()
    state.watch = Watch(model, state)
    _forget_compiled_graphs()


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters attached to `model`, by name."""
    state = getattr(model, "_inlay", None)
    return dict(state.adapters) if state else {}


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


def _forget_compiled_graphs() -> None:
    """Graphs compiled earlier do not notice new or removed hooks: they would skip the adapter silently."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
