"""Which axis of a module's result counts the rows of the batch, found by changing one row and seeing what changes.

A batch of two rows is run twice, the second time with another first row. Along the batch's axis the second entry is
then what it was, and the first is not. That holds for layouts that put time first, whatever the sizes happen to be; and
where tokens of all rows are in one list, or rows read each other, no axis fits.
"""

import copy
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..core import trial
from ..core.routing import Route
from ..core.state import state_of

_SAMPLE = 8  # features of each result that are compared
Call = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def known(model: nn.Module, hosts: Collection[nn.Module], row_count: int) -> Iterator[None]:
    """Make known the axis of each host that has one: before, if small inputs can be made, or else in the first call."""
    if _missing(hosts) and (inputs := trial.token_inputs(model, rows=3)) is not None and not _tried(hosts):
        _learn(model, hosts, _of_tokens(inputs))
    if not _missing(hosts):
        yield
        return

    def before_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook.remove()
        _learn(model, hosts, _of_call((args, kwargs), row_count))

    hook = model.register_forward_pre_hook(before_call, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _missing(hosts: Collection[Any]) -> list[Any]:
    return [host for host in hosts if host.adapters._batch_axis is None]


def _tried(hosts: Collection[Any]) -> bool:
    return all(host.adapters._axis_tried for host in hosts)


def _learn(model: nn.Module, hosts: Collection[Any], calls: tuple[Call, Call]) -> None:
    """Run the base twice and note the axis of each host. What cannot be run leaves nothing known."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def note(host: nn.Module, _: Any, result: Any) -> None:
        h = result[0] if isinstance(result, tuple) else result
        if isinstance(h, Tensor):
            seen.setdefault(host, []).append(h[..., :_SAMPLE].detach().float().clone())

    routing, thread = state_of(model).routing, threading.get_ident()
    missing = _missing(hosts)
    hooks = [host.register_forward_hook(note) for host in missing]
    before = routing.override(Route(), thread)
    found: list[dict[nn.Module, list[Tensor]]] = []
    try:
        with trial.evaluating(model):
            for args, kwargs in calls:
                model(*args, **kwargs)
                found.append(seen)
                seen = {}
    except Exception:  # whatever the model has against these inputs: then nothing is known
        return
    finally:
        routing.override(before, thread)
        for hook in hooks:
            hook.remove()
        for host in hosts:
            host.adapters._axis_tried = True
    for host in missing:
        axes = {_axis(a, b) for a, b in zip(*(results.get(host, []) for results in found), strict=False)}
        counts = {len(results.get(host, [])) for results in found}
        if len(axes) == len(counts) == 1:
            host.adapters._batch_axis = axes.pop()


def _axis(before: Tensor, after: Tensor) -> int | None:
    if before.shape != after.shape:
        return None
    scale = before.abs().max() + after.abs().max()
    fits = []
    for axis in range(before.ndim - 1):
        if before.shape[axis] == 2:
            moved = [(before.select(axis, row) - after.select(axis, row)).abs().max() for row in (0, 1)]
            if moved[0] > 1e-6 * scale and moved[1] <= 0.02 * moved[0]:
                fits.append(axis)
    return fits[0] if len(fits) == 1 else None


def _of_tokens(inputs: dict[str, Any]) -> tuple[Call, Call]:
    """Calls with the rows 0 and 2, and 1 and 2."""
    return tuple(((), tree_map_only(Tensor, lambda t, row=row: t[[row, 2]], inputs)) for row in (0, 1))  # pyright: ignore[reportReturnType]


def _of_call(call: Call, row_count: int) -> tuple[Call, Call]:
    """Calls with two rows, the second of which is the call's last one, and the first made from it, in two ways."""
    generator = torch.Generator().manual_seed(0)

    def two(t: Tensor, step: int) -> Tensor:
        if t.ndim == 0 or len(t) != row_count:
            return t
        row = t[-1:]
        if t.is_floating_point():
            noise = torch.randn(row.shape, generator=generator).to(row)
            return torch.cat([row + noise, row])
        if t.dtype == torch.bool:
            return torch.cat([row, row])
        return torch.cat([torch.where(row > step, row - step, row), row])  # a mask's ones and zeros stay

    copied = tree_map_only(object, lambda v: v if trial.is_plain(v) else copy.deepcopy(v), call)
    return tuple(tree_map_only(Tensor, lambda t, step=step: two(t, step), copied) for step in (1, 2))  # pyright: ignore[reportReturnType]
