"""Which axis of a module's result counts the rows of the batch, found by changing one row and seeing what changes.

A batch of two rows is run twice, the second time with another first row. Along the batch's axis the second entry is
then what it was, and the first is not. That holds for layouts that put time first, whatever the sizes happen to be; and
where tokens of all rows are in one list, or rows read each other, no axis fits.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from . import trial

_SAMPLE = 8  # features of each result that are compared
Call = tuple[tuple[object, ...], dict[str, object]]


@dataclass
class BatchAxis:
    """What is known of one module's result."""

    axis: int | None = None  # None if unknown, or if it has none
    is_tried: bool = False


Axes = Mapping[nn.Module, BatchAxis]
Alone = Callable[[], AbstractContextManager[None]]  # runs the base, without what was put into it


@contextmanager
def known(model: nn.Module, axes: Axes, row_count: int, alone: Alone) -> Iterator[None]:
    """Find the axis of each module that has one: before, if small inputs can be made, or else in the first call."""
    if _missing(axes) and (inputs := trial.token_inputs(model, rows=3)) is not None and not _tried(axes):
        _learn(model, axes, _of_tokens(inputs), alone)
    if not _missing(axes):
        yield
        return

    def before_call(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        hook.remove()
        _learn(model, axes, _of_call((args, kwargs), row_count), alone)

    hook = model.register_forward_pre_hook(before_call, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _missing(axes: Axes) -> list[nn.Module]:
    return [module for module, found in axes.items() if found.axis is None]


def _tried(axes: Axes) -> bool:
    return all(found.is_tried for found in axes.values())


def _learn(model: nn.Module, axes: Axes, calls: tuple[Call, Call], alone: Alone) -> None:
    """Run the base twice and note the axis of each module. What cannot be run leaves nothing known."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def note(module: nn.Module, _: object, result: object) -> None:
        h = result[0] if isinstance(result, tuple) else result
        if isinstance(h, Tensor):
            seen.setdefault(module, []).append(h[..., :_SAMPLE].detach().float().clone())

    missing = _missing(axes)
    hooks = [module.register_forward_hook(note) for module in missing]
    found: list[dict[nn.Module, list[Tensor]]] = []
    try:
        with alone(), trial.evaluating(model):
            for args, kwargs in calls:
                model(*args, **kwargs)
                found.append(seen)
                seen = {}
    except Exception:  # whatever the model has against these inputs: then nothing is known
        return
    finally:
        for hook in hooks:
            hook.remove()
        for each in axes.values():
            each.is_tried = True
    for module in missing:
        fitting = {_axis(a, b) for a, b in zip(*(results.get(module, []) for results in found), strict=False)}
        counts = {len(results.get(module, [])) for results in found}
        if len(fitting) == len(counts) == 1:
            axes[module].axis = fitting.pop()


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


def _of_tokens(inputs: Mapping[str, object]) -> tuple[Call, Call]:
    """Make calls with the rows 0 and 2, and 1 and 2."""
    return tuple(((), tree_map_only(Tensor, lambda t, row=row: t[[row, 2]], inputs)) for row in (0, 1))  # pyright: ignore[reportReturnType]


def _of_call(call: Call, row_count: int) -> tuple[Call, Call]:
    """Make calls with two rows, the second of which is the call's last one, and the first made from it, in two ways."""
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
