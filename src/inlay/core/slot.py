"""A slot is the child module, named `adapters`, that holds a host's deltas and runs the active ones.

The host is never renamed, replaced or subclassed: `q_proj.weight` stays `q_proj.weight`, and its deltas appear beside
it as `q_proj.adapters.<adapter name>.<parameter>`. Living inside the host, they move, shard and checkpoint with it.

Of several deltas the last named is the innermost. Those that replace a parameter come before all others: whatever else
is named works on the replaced one. Where an adapter is merged and another one is named too, the weights from before the
merge stand in for the call, and both deltas run: not every change commutes, and so none needs to.
"""

from typing import Any, cast

from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from ..errors import AdapterStateError
from ..models import weights
from ..models.batch_axis import BatchAxis
from ..models.modules import Guest
from ..models.results import Result, first, with_first
from ..models.weights import Host
from .delta import Args, Delta, Kwargs
from .routing import Routing


class Slot(Guest):
    """A host's deltas by adapter name. Not an nn.ModuleDict, which refuses names that a dict has as attributes."""

    routing: Routing
    hooks: tuple[RemovableHandle, RemovableHandle]
    is_aside: bool  # calls of the host pass the deltas by: whoever set it runs them, by `around`
    _batch_axis: BatchAxis  # of the host's result
    _unmerged: dict[str, Tensor] | None = None  # the host's parameters from before an adapter was merged

    def __init__(self, host: Host, routing: Routing):
        super().__init__()
        hooks = (
            host.register_forward_pre_hook(self._before, with_kwargs=True),
            host.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        )
        # As a module sets attributes it takes time, and there is a slot for each host.
        self.__dict__.update(routing=routing, hooks=hooks, is_aside=False, _batch_axis=BatchAxis())

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

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Leave out a merged adapter, which the host's own weights hold: a merged model is saved as a plain one."""
        found = super().state_dict(*args, **kwargs)
        if self._unmerged is not None:
            merged = f"{kwargs.get('prefix', '')}{self.routing.merged}."
            for key in [key for key in found if key.startswith(merged)]:
                del found[key]
        return found

    def _running(self) -> list[Delta]:
        """List the deltas that run, in the order of their names; without those that the host's weights hold already."""
        routing = self.routing
        route = routing.now() if routing.overrides else routing.lasting
        running = [self[name] for name in route.names if name in self._modules]
        return [] if self._unmerged is not None and len(running) == 1 else running

    def has_statistics(self) -> bool:
        """Tell whether an active delta has statistics of its own, on which the host runs."""
        return any(delta.statistics for delta in self._running())

    def runs(self, delta: Delta) -> bool:
        """Tell whether the next call of the host runs this delta on the whole batch."""
        return any(other is delta for other in self._running())

    def around(self, host: Host, args: Args, kwargs: Kwargs) -> Result:
        """Run the active deltas around the host's forward, as a call of the host does, without its other hooks."""
        result: Any = None
        try:
            args, kwargs = self._before(host, args, kwargs)
            result = host.forward(*args, **kwargs)
        finally:
            result = self._after(host, args, kwargs, result)
        return result

    def _before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if self.is_aside:
            return args, kwargs
        running = self._running()
        if len(running) > 1:
            if self._unmerged is not None:
                weights.shadow(host, self._unmerged)
            running = _before_order(running, host)
        for delta in running:
            args, kwargs = delta.before(host, args, kwargs)
        return args, kwargs

    def _after(self, host: Host, args: Args, kwargs: Kwargs, result: Result | None) -> Result | None:
        if self.is_aside:
            return None
        if result is None:  # the host raised: an always-called hook runs all the same
            for name in self._modules:
                self[name].release(host)
            weights.unshadow(host, self._unmerged or ())
            return None
        if self.routing.overrides and (route := self.routing.now()).rows is not None:
            for name, rows in route.rows.items():
                if name in self._modules:
                    result = self._edit_rows(self[name], rows, route.row_count, host, args, kwargs, result)
            return result
        running = self._running()
        if len(running) > 1:
            result = _edited_in_turn(running, host, args, kwargs, result)
        else:
            for delta in running:
                result = delta.after(host, args, kwargs, result)
        if self._unmerged is not None:
            weights.unshadow(host, self._unmerged)
        return result

    def _edit_rows(
        self, delta: Delta, rows: Tensor, row_count: int, host: Host, args: Args, kwargs: Kwargs, result: Result
    ) -> Result:
        h = first(result)
        axis = self._batch_axis.axis
        if axis is None or h.ndim <= axis:
            why = (
                "no axis does, such as where tokens of all rows are in one list"
                if self._batch_axis.is_tried
                else "that is found only in a call of the whole model, which should come first"
            )
            raise AdapterStateError(
                f"using(rows=...) needs to know which axis of a result counts the rows, and of that of a "
                f"{type(host).__name__} {why}; name one adapter for the whole batch"
            )
        if h.shape[axis] != row_count:
            raise AdapterStateError(
                f"using(rows=...) names {row_count} rows; {type(host).__name__} got a batch of {h.shape[axis]}"
            )
        like = h.shape[: axis + 1]
        picked = tree_map_only(
            Tensor, lambda t: t.index_select(axis, rows) if t.shape[: axis + 1] == like else t, (args, kwargs, result)
        )
        return with_first(result, h.index_copy(axis, rows, first(delta.after(host, *picked))))


def _before_order(running: list[Delta], host: Host) -> list[Delta]:
    """Order the deltas before a call: parameters are replaced first, then folded from the innermost on; inputs are
    edited from the outermost on."""
    standing = [delta for delta in reversed(running) if delta.stands_in(host)]
    standing.sort(key=lambda delta: not delta.replaces)
    return [*standing, *(delta for delta in running if not delta.stands_in(host))]


def _edited_in_turn(running: list[Delta], host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
    """Run the deltas after a call in turn; each reads as the host's bias what those before it have made of it."""
    try:
        for delta in _after_order(running, host):
            result = delta.after(host, args, kwargs, result)
            before_O = weights.bias(host)
            after_O = delta.changed_bias(before_O)
            if after_O is not None and after_O is not before_O:
                weights.shadow(host, {"bias": after_O})
        return result
    finally:
        weights.unshadow(host, ("bias",))


def _after_order(running: list[Delta], host: Host) -> list[Delta]:
    """Order the deltas after a call: outputs are edited from the innermost on; parameters stand in until all are done,
    as an edit may read them.
    """
    edits = [delta for delta in reversed(running) if not delta.stands_in(host)]
    edits.sort(key=lambda delta: not delta.replaces)
    return [*edits, *(delta for delta in running if delta.stands_in(host))]
