"""Choosing which of the attached adapters run: for good, or for a while in one thread."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import AdapterStateError, did_you_mean
from ..models import batch_axis, weights
from .routing import Route
from .state import SLOT, State, state_of


def activate(model: nn.Module, *names: str) -> None:
    """Make these adapters the ones that run from now on (none: the base model), where `using` does not say otherwise.

    Raises AdapterStateError, having changed nothing, for what `using` refuses.
    """
    state = state_of(model)
    check_usable(state, names)
    state.routing.lasting = Route(names)


@contextmanager
def using(model: nn.Module, *names: str, rows: Sequence[str | None] | None = None) -> Iterator[None]:
    """Run with these adapters (none: the base model), or with one adapter per row of the batch (None: the base).

    Of several adapters the last is the innermost: the others see what it has made of a layer. It holds for this thread
    alone; others, also ones that are started inside, run what is active or what they choose. Keep the backward pass
    inside when gradient checkpointing is on: it runs the forward again. Raises AdapterStateError for an unknown name or
    a combination that cannot be had: the base beneath a merged adapter, or two adapters that replace one tensor.
    """
    if rows is not None and names:
        raise AdapterStateError("name adapters for the whole batch or for its rows, not both")
    state = state_of(model)
    routing = state.routing
    if rows is None:
        check_usable(state, names)
        with routing.during(Route(names)):
            yield
        return
    chosen = [name for name in dict.fromkeys(rows) if name is not None]
    check_usable(state, chosen, by_rows=True)
    device = weights.device(model)
    places = {name: torch.tensor([i for i, row in enumerate(rows) if row == name], device=device) for name in chosen}
    axes = {host: getattr(host, SLOT)._batch_axis for name in chosen for _, host, _ in state.adapters[name].hosts()}
    with batch_axis.known(model, axes, len(rows), alone=lambda: routing.during(Route())):
        with routing.during(Route((), places, len(rows))):
            yield


def check_usable(state: State, names: Collection[str], by_rows: bool = False) -> None:
    """Raise AdapterStateError unless these adapters can run together, or each on rows of its own."""
    for name in sorted(set(names) - state.adapters.keys()):
        raise AdapterStateError(f"no adapter {name!r} is attached{did_you_mean(name, state.adapters)}")
    if not by_rows and len(set(names)) < len(names):
        raise AdapterStateError(f"{', '.join(names)}: an adapter is named twice; name each once")
    for adapter in state.adapters.values():
        if (by_rows or adapter.name not in names) and not adapter.removable:
            raise AdapterStateError(
                f"adapter {adapter.name!r} ({adapter.made_by}) trained the base itself; the base is gone"
            )
    merged = state.routing.merged
    if merged is not None and (by_rows or merged not in names):
        raise AdapterStateError(f"adapter {merged!r} is merged into the base's weights; unmerge it first")
    if by_rows:
        for name in names:
            for _, host, delta in state.adapters[name].hosts():
                if not delta.edits_rows(host):
                    raise AdapterStateError(
                        f"adapter {name!r} cannot serve single rows of a batch; use it alone: using(model, {name!r})"
                    )
    elif len(names) > 1:
        _check_replaced(state, names)


def _check_replaced(state: State, names: Collection[str]) -> None:
    owners: dict[str, str] = {}
    for name in names:
        for host_name, _, delta in state.adapters[name].hosts():
            for tensor in delta.replaces:
                full = f"{host_name}.{tensor}" if host_name else tensor
                if full in owners:
                    raise AdapterStateError(
                        f"adapters {owners[full]!r} and {name!r} both have a {full} of their own, and there can be "
                        "one; use them apart, or attach one of them with heads=() if it is the head"
                    )
                owners[full] = name
