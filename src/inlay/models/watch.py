"""A look at the first pass that records gradients: is a module's weight used although the module is never called?

Then an adapter there does nothing, and merged it would do something. A layer that merely does not run, such as an image
tower beside a batch of texts or an expert without tokens, has its weight unused as well, and is no fault.

It looks at the operations of that one pass and is gone afterwards. Whoever goes past the model's own call, to its
`forward`, is watched part by part, and hears of it at the end of the first backward pass. `bypass.py` finds most such
layers in the source, before anything runs.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..errors import InertAdapter


class Watched(NamedTuple):
    """One module that should be called."""

    name: str
    module: nn.Module
    trained: list[nn.Parameter]
    """What is trained for it."""
    is_beside: bool
    """Whether the module's own parameters are not what is trained."""


class Watch:
    """What is seen of the watched modules of a model until the first pass is over."""

    def __init__(self, model: nn.Module, watched: Callable[[], Iterable[Watched]]):
        self.model, self.watched = model, watched
        self.called: set[str] = set()
        self.is_open = True
        self._uses: _Uses | None = None
        self._entered: list[nn.Module] = []
        self._thread = 0
        self._hooks: list[RemovableHandle] = []  # on the modules and parameters, while it looks
        self._outer: list[RemovableHandle] = []
        for module in (model, *model._modules.values()):
            if module is not None:
                self._outer.append(module.register_forward_pre_hook(self._enter))
                self._outer.append(module.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        """Take all hooks out."""
        for hook in (*self._hooks, *self._outer):
            hook.remove()
        self._hooks, self._outer = [], []
        self.is_open = False

    def inert(self) -> list[str]:
        """Name the modules that were not called while their weight was used."""
        used = set() if self._uses is None else self._uses.used
        seen: dict[str, tuple[set[int], set[int]]] = {}
        for name, module, trained, is_beside in self.watched():
            if is_beside:
                base, own = seen.setdefault(name, (set(), set()))
                base.update(_weights(module))
                own.update(map(id, trained))
        reached = {p for name in self.called for p in seen.get(name, (set(), set()))[1]}
        return [name for name, (base, own) in seen.items() if name not in self.called and base & used and own - reached]

    def _enter(self, module: nn.Module, _: object) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        here = threading.get_ident()
        if self._entered and here != self._thread:
            return
        if not self._entered:
            self._thread = here
            if self._uses is None:
                self._begin()
            assert self._uses is not None
            self._uses.__enter__()
        self._entered.append(module)

    def _leave(self, module: nn.Module, _: object, result: object) -> None:
        if torch.compiler.is_compiling() or not self._entered or threading.get_ident() != self._thread:
            return
        if self._entered[-1] is not module:
            return
        self._entered.pop()
        if self._entered:
            return
        assert self._uses is not None
        self._uses.__exit__(None, None, None)
        if module is self.model:
            if result is not None:
                self._judge()
            self._end()  # one that failed is looked at again

    def _begin(self) -> None:
        self.called = set()
        watched = list(self.watched())
        parameters = {id(p): p for each in watched for p in each.trained if p.requires_grad and p.is_leaf}
        self._uses = _Uses({i for each in watched for i in _weights(each.module)})
        for name, module in {each.name: each.module for each in watched}.items():
            self._hooks.append(module.register_forward_pre_hook(_Note(self.called, name)))
        self._hooks += [p.register_hook(self._in_backward) for p in parameters.values()]

    def _end(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._uses = [], None

    def _in_backward(self, _: Tensor) -> None:
        if self._uses is not None and not self._entered:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            torch.autograd.Variable._execution_engine.queue_callback(self._after_backward)  # pyright: ignore

    def _after_backward(self) -> None:
        self._judge()
        self._end()

    def _judge(self) -> None:
        """Close the watch. Raises InertAdapter, and goes on watching, if a module is inert."""
        if names := self.inert():
            self._end()
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise InertAdapter(
                f"the model uses the weights of {shown} without calling these modules, so an adapter there does "
                "nothing: detach it, and leave them out of its targets"
            )
        self.close()


class _Note:
    """A hook that notes that a module was called; no function in a function, so that a model can be copied."""

    def __init__(self, called: set[str], name: str):
        self.called, self.name = called, name

    def __call__(self, module: nn.Module, _: object) -> None:
        self.called.add(self.name)


class _Uses(TorchFunctionMode):
    """Notes which of the watched tensors an operation makes another tensor from."""

    def __init__(self, watched: set[int]):
        super().__init__()
        self.watched = watched
        self.used: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if torch.compiler.is_compiling() or not isinstance(result, Tensor | tuple | list):
            return result
        for tensor in _tensors((args, *(kwargs or {}).values())):
            if id(tensor) in self.watched:
                self.used.add(id(tensor))
        return result


def _weights(module: nn.Module) -> Iterator[int]:
    yield from (id(p) for p in module._parameters.values() if p is not None)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
