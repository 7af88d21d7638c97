"""A transformer's `forward` while a soft prompt is attached to it: whoever calls it past the hooks gets the prompt too.

PyTorch runs hooks when a module is called, not when its `forward` is; some callers, sentence-transformers among them,
call that. In the instance's own `forward` it then stands that such a call goes back to the module. A call that came
through the hooks brings an argument of ours along, which says what was put where and which the model does not see.
"""

import inspect
from typing import Any

from ...core.delta import Delta, Kwargs
from ...models.weights import Host
from .placement import Placement

_OURS = "inlay_prompts"  # the argument


class Entrance:
    """An instance's own `forward`. An object and not a function, so that a copy of the model has a copy of it."""

    def __init__(self, host: Host):
        self.host: Any = host
        self.prompts: list[Delta] = []
        self.own = host.__dict__.get("forward")  # what another library put there; else the class's own is called
        self.__signature__ = inspect.signature(host.forward)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if _OURS in kwargs:
            del kwargs[_OURS]
        elif any(self.host.adapters.runs(prompt) for prompt in self.prompts):
            return self.host(*args, **kwargs)
        return type(self.host).forward(self.host, *args, **kwargs) if self.own is None else self.own(*args, **kwargs)


def open_for(host: Host, prompt: Delta) -> None:
    if not isinstance(host.__dict__.get("forward"), Entrance):
        host.__dict__["forward"] = Entrance(host)
    host.__dict__["forward"].prompts.append(prompt)


def close_for(host: Host, prompt: Delta) -> None:
    found = host.__dict__.get("forward")
    if not isinstance(found, Entrance):  # another library has put its own around it
        return
    found.prompts = [p for p in found.prompts if p is not prompt]
    if not found.prompts:
        if found.own is None:
            del host.__dict__["forward"]
        else:
            host.__dict__["forward"] = found.own


def entered(kwargs: Kwargs, prompt: Delta, place: Placement | None) -> Kwargs:
    """Return the argument that says that `prompt` came through the hooks and where it was put; None if the cache has
    it.
    """
    given = 0 if place is None else kwargs["inputs_embeds"].shape[1]  # before other prompts add theirs
    return {_OURS: (*kwargs.get(_OURS, ()), (prompt, place, given))}


def left_with(kwargs: Kwargs, prompt: Delta) -> tuple[Placement | None, int]:
    """Return where `prompt` was put, and among how many positions."""
    return next((place, given) for entry, place, given in kwargs[_OURS] if entry is prompt)
