"""Activations that are computed again in the backward pass in place of being kept: less memory for more time.

A chosen module keeps its input alone. Its `forward`, in the instance, runs the class's own one once without and once
with a record of what the gradients need, by torch.utils.checkpoint: with the same random numbers, and in the context of
the first run, since an accelerator's backward pass has a thread of its own. What other libraries and adapters do around
the module's call is done once.
"""

import inspect
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import SettingsError
from . import weights
from .caches import caches_in
from .modules import joined
from .parts import Feedforward
from .sites import Sites

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

NONE, FEEDFORWARD, ALL = "none", "feed-forward", "all"


def check_choice(asked: str) -> None:
    """Raise SettingsError for a choice that `chosen` does not know."""
    if asked not in (NONE, FEEDFORWARD, ALL) and not (asked.isascii() and asked.isdecimal() and int(asked) > 0):
        raise SettingsError(
            f"recompute is {asked!r}; it can be {NONE}, {FEEDFORWARD}, {ALL}, or a number of blocks from 1"
        )


def chosen(sites: Sites, asked: str) -> list[nn.Module]:
    """Return the modules that are to be computed again: the feed-forwards, all blocks, or the first so many.

    The first ones are those whose activations would be kept longest. Raises SettingsError if there are no such modules,
    or not so many.
    """
    if asked == NONE:
        return []
    blocks = list(sites.blocks.values())
    kind = type(sites.model).__name__
    if not blocks:
        raise SettingsError(f"recompute is {asked}, and no blocks are found in {kind}; leave it out")
    if asked == FEEDFORWARD:
        found = [m for name in sites.blocks for f in sites.parts[name].feedforwards for m in _of(sites, name, f)]
        if not found:
            raise SettingsError(
                f"recompute is {asked}, and the blocks of {kind} have no modules that are their feed-forwards; take "
                f"{ALL}, or a number of blocks"
            )
        return found
    if asked != ALL and int(asked) > len(blocks):
        raise SettingsError(f"recompute is {asked}, and {kind} has {len(blocks)} blocks; take at most that, or {ALL}")
    return blocks if asked == ALL else blocks[: int(asked)]


class Recomputing:
    """Modules that are computed again, until `undo`; those that are already stay as they are.

    The second run stops when the gradients have what they need. `to_the_end` it does not, so that what belongs to the
    calls inside is done, such as to give back the weights that were brought for one.
    """

    def __init__(self, modules: Iterable[nn.Module], *, to_the_end: bool = False):
        self.modules = [module for module in modules if not isinstance(module.__dict__.get("forward"), _Again)]
        for module in self.modules:
            module.__dict__["forward"] = _Again(module, to_the_end)

    def undo(self) -> None:
        for module in self.modules:
            found = module.__dict__.get("forward")
            if isinstance(found, _Again):
                del module.__dict__["forward"]
                if found.before is not None:
                    module.__dict__["forward"] = found.before
        self.modules = []


class _Again:
    """A module's `forward`. An object and no function, so that a copy of the model has a copy of it."""

    def __init__(self, module: nn.Module, to_the_end: bool):
        self.module, self.to_the_end = module, to_the_end
        self.before: Callable[..., object] | None = module.__dict__.get("forward")  # what another library put there
        self.__signature__ = inspect.signature(module.forward)

    def own(self, *args: object, **kwargs: object) -> object:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not torch.is_grad_enabled():
            return self.own(*args, **kwargs)
        context, calls, count, names = copy_context(), 0, len(args), tuple(kwargs)
        caches = [_Earlier(each) for each in caches_in((*args, *kwargs.values()))]

        def run(*values: object) -> object:
            nonlocal calls
            calls += 1
            again = partial(self.own, *values[:count], **dict(zip(names, values[count:], strict=True)))
            for cache in caches:
                cache.put_back()
            return again() if calls == 1 else context.copy().run(again)

        # By position: whose devices' random numbers are kept, it looks up in these alone.
        early = not self.to_the_end
        result = checkpoint(run, *args, *kwargs.values(), use_reentrant=False, early_stop=early)
        for cache in caches:
            cache.keep_changed()
        return result


class _Earlier:
    """What a cache has of earlier positions, such as a prefix, before a module has added its own."""

    def __init__(self, cache: "Cache"):
        self.layers = [(layer, dict(vars(layer))) for layer in cache.layers]

    def put_back(self) -> None:
        for layer, before in self.layers:
            vars(layer).clear()
            vars(layer).update(before)

    def keep_changed(self) -> None:
        """Forget the layers that the module has left alone, which are others'."""
        self.layers = [(layer, old) for layer, old in self.layers if any(vars(layer)[k] is not old[k] for k in old)]


def _of(sites: Sites, block: str, feedforward: Feedforward) -> list[nn.Module]:
    """Return the module that is the feed-forward and nothing else, or else what its first layer is in; none if it is in
    none, for a single layer that is computed again keeps what it keeps anyway.

    What an adapter hands on from a first layer to a last one, such as of `parallel`, is so never handed on from one
    module that is computed again to another.
    """
    if feedforward.end is None:
        return []
    names = [feedforward.start.split("."), feedforward.end.split(".")]
    if feedforward.start == feedforward.end:
        return [sites.module(joined(block, feedforward.start))]
    if common := [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*names, strict=False))]:
        return [sites.module(joined(block, *common))]
    module = sites.module(joined(block, names[0][0]))
    return [] if weights.is_linear(module) else [module]
