"""What Inlay remembers of a model with adapters, and how an attachment joins it and leaves it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import AdapterStateError
from ..models import self_saving
from ..models.frozen import FrozenBase
from ..models.watch import Watch, Watched
from .attachment import Attachment
from .routing import Route, Routing
from .saving import save_beside
from .slot import Slot

SLOT = "adapters"  # the attribute of a host that holds its slot


@dataclass
class State:
    """The attribute `_inlay` of a model while it has adapters."""

    frozen: FrozenBase
    routing: Routing = field(default_factory=Routing)
    adapters: dict[str, Attachment] = field(default_factory=dict)
    watch: Watch | None = None
    labels_are_named: bool = False  # by the adapters; the model's own had no names

    def watched(self) -> Iterator[Watched]:
        """Yield the hosts, which a pass should call."""
        for adapter in self.adapters.values():
            for name, host, delta in adapter.hosts():
                yield Watched(name, host, [p for _, p in delta.trained(host)], adapter.removable)


def state_of(model: nn.Module) -> State:
    """Raise AdapterStateError if the model has no adapters."""
    state = known_state(model)
    if state is None:
        raise AdapterStateError(f"{type(model).__name__} has no adapters; attach one first")
    return state


def known_state(model: nn.Module) -> State | None:
    """Find what is remembered of the model; None if it has no adapters."""
    return getattr(model, "_inlay", None)


def state_with(adapter: Attachment) -> State:
    """Raise AdapterStateError if the adapter is not in its model."""
    state = state_of(adapter.model)
    if state.adapters.get(adapter.name) is not adapter:
        raise AdapterStateError(f"adapter {adapter.name!r} is not attached")
    return state


def commit(adapter: Attachment) -> None:
    """Put what was planned into its model, freeze the base, and make it the active one."""
    model = adapter.model
    state = known_state(model)
    if state is None:
        state = State(FrozenBase(model, keep_buffers=adapter.removable))
        model.__dict__["_inlay"] = state
        self_saving.begin(model, _save_beside)
    for _, host, delta in adapter.hosts():
        if not hasattr(host, SLOT):
            setattr(host, SLOT, Slot(host, state.routing))
        delta.install(host)
        delta.train(host.training)
        for _, p in delta.trained(host):
            p.requires_grad_(True)
        getattr(host, SLOT).add(adapter.name, delta)
    state.adapters[adapter.name] = adapter
    adapter.before = state.routing.lasting.names
    state.routing.lasting = Route((adapter.name,))
    if state.watch is not None:
        state.watch.close()
    state.watch = Watch(model, state.watched)
    _forget_compiled_graphs()


def withdraw(adapter: Attachment) -> None:
    """Take it out of its model, which is exactly what it was once the last one is gone.

    What else was active stays active. If it was the only active one, what was active when it joined is active again, as
    far as it is still there.
    """
    model, state = adapter.model, state_with(adapter)
    for _, host, delta in adapter.hosts():
        delta.uninstall(host)
        slot = getattr(host, SLOT)
        slot.remove(adapter.name)
        if not len(slot):
            slot.close()
            delattr(host, SLOT)
    del state.adapters[adapter.name]
    for other in state.adapters.values():
        other.before = _without(adapter, other.before)
    state.routing.lasting = Route(_without(adapter, state.routing.lasting.names))
    if not state.adapters:
        if state.watch is not None:
            state.watch.close()
        state.frozen.thaw(model)
        self_saving.end(model)
        del model._inlay
    _forget_compiled_graphs()


def _save_beside(model: nn.Module, folder: Path) -> str | None:
    """Write the adapters that the model's own weights do not hold; returns what the user should know of them."""
    state = state_of(model)
    apart = [each for each in state.adapters.values() if each.removable and each.name != state.routing.merged]
    return save_beside(apart, folder) if apart else None


def _without(adapter: Attachment, names: tuple[str, ...]) -> tuple[str, ...]:
    """Take the adapter out of the names; if no other is left, those that were active when it joined."""
    left = tuple(name for name in names if name != adapter.name)
    return left if left or adapter.name not in names else adapter.before


def _forget_compiled_graphs() -> None:
    """Drop graphs compiled earlier, which do not notice new or removed hooks and would skip the adapter silently."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
