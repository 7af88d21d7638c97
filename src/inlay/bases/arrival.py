"""A model's parameters as they arrive from its files, one after the other: each is looked at and dealt with at once.

What is made of a model on its way, such as its layers in 4 bits, is then never there beside the whole that it was made
from, and nothing is read a second time.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

_ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"  # transformers' variable: else threads read ahead, and cast what they read
_FROM_FILE = "_is_hf_initialized"  # transformers' mark on a parameter that it has read and need not draw


@dataclass(frozen=True)
class Arrival:
    """A parameter that has been read, before it takes its place in a model."""

    model: nn.Module  # the whole; what has not arrived yet is on the meta device
    module: nn.Module
    module_name: str
    name: str  # in its module
    parameter: nn.Parameter

    @property
    def key(self) -> str:
        return f"{self.module_name}.{self.name}" if self.module_name else self.name

    def replaced_by(self, parameter: nn.Parameter) -> nn.Parameter:
        """Let another parameter count as the one that was read."""
        setattr(parameter, _FROM_FILE, True)
        return parameter

    def without_values(self) -> nn.Parameter:
        """Return a parameter that keeps the place, on the meta device."""
        return self.replaced_by(nn.Parameter(self.parameter.detach().to("meta"), requires_grad=False))


Take = Callable[[Arrival], nn.Parameter]


@contextmanager
def arriving(take: Take, *, one_by_one: bool) -> Iterator[None]:
    """Let each parameter that this thread reads into a model pass `take`, and what that returns become the model's.

    Those that are new, and drawn at random, do not pass. `one_by_one`: none is read before the last one was taken.
    """
    watch, before = _Watch(take), os.environ.get(_ONE_BY_ONE)
    hooks = (
        register_module_module_registration_hook(watch.module),
        register_module_parameter_registration_hook(cast(Callable[..., None], watch.parameter)),  # else typed as None
    )
    if one_by_one:
        os.environ[_ONE_BY_ONE] = "1"
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if one_by_one and before is None:
            del os.environ[_ONE_BY_ONE]
        elif before is not None:
            os.environ[_ONE_BY_ONE] = before


class _Watch:
    """What a thread builds: modules in modules, whose parameters get values when all of them are there."""

    def __init__(self, take: Take):
        self.take, self.thread = take, threading.get_ident()
        self.inner: dict[int, nn.Module] = {}
        self.outer: dict[int, nn.Module] = {}
        self.names: dict[int, tuple[str, nn.Module]] = {}  # by module, with the model that it is in

    def module(self, outer: nn.Module, name: str, inner: nn.Module | None) -> None:
        if threading.get_ident() == self.thread and inner is not None:
            self.inner[id(inner)] = inner
            self.outer[id(outer)] = outer

    def parameter(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if threading.get_ident() != self.thread or parameter is None:
            return None
        if parameter.is_meta or not getattr(parameter, _FROM_FILE, False) or (found := self._named(module)) is None:
            return None
        module_name, model = found
        return self.take(Arrival(model, module, module_name, name, parameter))

    def _named(self, module: nn.Module) -> tuple[str, nn.Module] | None:
        if id(module) not in self.names:
            outermost = [m for key, m in self.outer.items() if key not in self.inner]
            self.names = {id(m): (name, top) for top in outermost for name, m in top.named_modules()}
        return self.names.get(id(module))
