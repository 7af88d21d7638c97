"""A slot is the child module, named `adapters`, that holds a host's deltas and runs the active ones.

The host is never renamed, replaced or subclassed: `q_proj.weight` stays `q_proj.weight`, and its deltas appear beside
it as `q_proj.adapters.<adapter name>.<parameter>`. Living inside the host, they move, shard and checkpoint with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import AdapterStateError
from .delta import Args, Delta, Kwargs
from .weights import Host


@dataclass
class Routing:
    """Which adapters run. One object per model, shared by all of its slots; one forward pass at a time."""

    active: tuple[str, ...] = ()
    rows: dict[str, Tensor] | None = None  # adapter name -> the batch rows it serves; overrides `active`
    row_count: int = 0  # rows of the batch that `rows` describes
    merged: str | None = None  # lives in the host's weights already, so its deltas do not run


class Slot(nn.Module):
    """A host's deltas by adapter name. Not an nn.ModuleDict, which refuses names that a dict has as attributes."""

    def __init__(self, host: Host, routing: Routing):
        super().__init__()
        self.routing = routing
        self.hooks = (
            host.register_forward_pre_hook(self._before, with_kwargs=True),
            host.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        )

    def add(self, name: str, delta: Delta) -> None:
        self._modules[name] = delta

    def remove(self, name: str) -> None:
        del self._modules[name]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def __getitem__(self, name: str) -> Delta:
        return cast(Delta, self._modules[name])

    def __len__(self) -> int:
        return len(self._modules)

    def _running(self) -> Iterator[Delta]:
        for name in self.routing.active:
            if name in self and name != self.routing.merged:
                yield self[name]

    def has_statistics(self) -> bool:
        """Whether an active delta has statistics of its own, on which the host runs."""
        return any(delta.statistics for delta in self._running())

    def _before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if self.routing.rows is None:
            for delta in self._running():
                args, kwargs = delta.before(host, args, kwargs)
        return args, kwargs

    def _after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        if result is None:  # the host raised: an always-called hook runs all the same
            for name in self._modules:
                self[name].release(host)
            return None
        if self.routing.rows is None:
            for delta in reversed(tuple(self._running())):
                result = delta.after(host, args, kwargs, result)
            return result
        for name, rows in self.routing.rows.items():
            if name in self:
                result = self._edit_rows(self[name], rows, host, args, kwargs, result)
        return result

    def _edit_rows(self, delta: Delta, rows: Tensor, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        h_B = first(result)
        if len(h_B) != self.routing.row_count:
            raise AdapterStateError(
                f"using(rows=...) names {self.routing.row_count} rows; {type(host).__name__} got a batch of {len(h_B)}"
            )
        picked = tree_map_only(
            Tensor, lambda t: t[rows] if t.ndim > 0 and len(t) == len(h_B) else t, (args, kwargs, result)
        )
        return with_first(result, h_B.index_copy(0, rows, first(delta.after(host, *picked))))


def first(result: Any) -> Tensor:
    """The hidden states of a module's result; transformer blocks may return them first in a tuple."""
    return result[0] if isinstance(result, tuple) else result


def with_first(result: Any, h: Tensor) -> Any:
    """`result` with its hidden states replaced by `h`."""
    return (h, *result[1:]) if isinstance(result, tuple) else h
