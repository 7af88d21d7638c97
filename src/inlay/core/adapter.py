"""The life of a named adapter: attach, use, merge, unmerge, detach."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import AdapterStateError, CheckpointError, TargetError, did_you_mean
from . import buffers, sharded, weights
from .delta import Delta, WeightDelta
from .fingerprint import fingerprint
from .method import Method
from .replacement import Replacement
from .sites import Sites
from .slot import Routing, Slot

SLOT = "adapters"  # the attribute of a host that holds its slot


@dataclass
class _State:
    """What Inlay remembers of a model with adapters; the attribute `_inlay` of the model while it has any."""

    routing: Routing
    adapters: dict[str, "Adapter"]
    required_grad: dict[str, bool]  # of the base's parameters, before the first adapter froze them
    hooks: list[buffers.KeptBuffers | buffers.Watch]  # that keep the base's buffers as they are


@dataclass(repr=False)
class Adapter:
    """One attached method. It holds its deltas, so nothing ever looks for parameters by their names."""

    name: str
    method: Method
    model: nn.Module
    heads: tuple[str, ...]
    deltas: dict[str, Delta]  # by host name
    base_fingerprint: str | None
    part: str | None = None  # the module of the base that the adapter is kept to
    _replaced: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # host parameters from before merge

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.method}, {len(self.deltas)} hosts in {type(self.model).__name__})"

    def hosts(self) -> Iterator[tuple[str, nn.Module, Delta]]:
        for host_name, delta in self.deltas.items():
            yield host_name, self.model.get_submodule(host_name), delta

    @property
    def removable(self) -> bool:
        """Whether the base is still there beneath the adapter."""
        return all(delta.removable for delta in self.deltas.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What training changes, each tensor once, as `host.parameter`."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, p in delta.trained(host):
                if id(p) not in seen:
                    seen.add(id(p))
                    yield f"{host_name}.{name}" if host_name else name, p

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from (p for _, p in self.named_parameters())

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """What a checkpoint holds, each tensor once: (host name, parameter name, tensor)."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, tensor in delta.saved(host).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield host_name, name, tensor

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's tensors by name. Where processes share them out (FSDP2) they are whole, and all must call it."""
        return {name: sharded.whole(t).detach() for name, t in self._named_tensors().items()}

    def _named_tensors(self) -> dict[str, Tensor]:
        return {f"{host}.{name}" if host else name: t for host, name, t in self.tensors()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises CheckpointError, having changed nothing, unless names and shapes are exactly the adapter's own."""
        self.check_fits(state)
        own = self._named_tensors()
        for key, tensor in state.items():
            sharded.fill(own[key].detach(), tensor)

    def check_fits(self, state: dict[str, Tensor]) -> None:
        own = self._named_tensors()
        problems = [f"{key} is missing" for key in own.keys() - state.keys()]
        problems += [f"{key} has no place" for key in state.keys() - own.keys()]
        problems += [
            f"{key} has shape {tuple(state[key].shape)}, its place {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if own[key].shape != state[key].shape
        ]
        if problems:
            shown = "; ".join(sorted(problems)[:5])
            more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
            raise CheckpointError(f"the tensors do not fit adapter {self.name!r}: {shown}{more}")

    def save(self, folder: str | Path) -> None:
        """Write the adapter in Hugging Face PEFT's format, and provenance.json beside it.

        Where processes share its tensors out (FSDP2) all of them must call this, and the first one writes.
        """
        from ..formats.peft import save

        modules = [delta if delta.removable else host for _, host, delta in self.hosts()]
        with sharded.made_whole(modules) as is_writer:
            if is_writer:
                save(self, Path(folder))

    @torch.no_grad()
    def merge(self) -> None:
        """Write the adapter into the base's weights; `unmerge` restores those bit for bit.

        Computed in float32 or finer and rounded once to the weight's dtype. Raises AdapterStateError, having changed
        nothing, if the adapter changes more than weights, a weight is packed or shared, or another adapter is merged.
        """
        routing = self._attached_to().routing
        if routing.merged is not None:
            raise AdapterStateError(f"adapter {routing.merged!r} is merged already; unmerge it first")
        self.check_mergeable()
        for host_name, host, delta in self.hosts():
            assert isinstance(delta, WeightDelta)
            own = weights.read(host, delta.folds)
            self._replaced[host_name] = {name: p.detach().clone() for name, p in own.items()}
            exact = {name: p.to(torch.promote_types(p.dtype, torch.float32)) for name, p in own.items()}
            weights.write(host, delta.fold(exact))
        routing.merged = self.name

    def unmerge(self) -> None:
        routing = _state(self.model).routing
        if routing.merged != self.name:
            raise AdapterStateError(f"adapter {self.name!r} is not merged")
        for host_name, host, _ in self.hosts():
            weights.write(host, self._replaced.pop(host_name))
        routing.merged = None

    def detach(self) -> None:
        """Take the adapter out. With the last one gone the model is exactly what it was."""
        state = self._attached_to()
        if not self.removable:
            raise AdapterStateError(
                f"{self.method.name} trained the base model itself, so it cannot be detached; load the base model again"
            )
        if state.routing.merged == self.name:
            self.unmerge()
        for _, host, _ in self.hosts():
            slot = getattr(host, SLOT)
            slot.remove(self.name)
            if not len(slot):
                slot.close()
                delattr(host, SLOT)
        del state.adapters[self.name]
        state.routing.active = tuple(n for n in state.routing.active if n != self.name)
        if not state.adapters:
            for name, p in self.model.named_parameters():
                p.requires_grad_(state.required_grad[name])
            for hook in state.hooks:
                hook.close()
            del self.model._inlay
        _forget_compiled_graphs()

    def check_mergeable(self) -> None:
        """Raises AdapterStateError if `merge` could not do it; on a model without values too."""
        if not self.removable:
            raise AdapterStateError(f"{self.method.name} trained the base model itself: there is nothing to merge")
        owners: dict[int, list[str]] = {}
        for name, module in Sites(self.model, ()).modules():
            for p in (*module._parameters.values(), *module._buffers.values()):
                owners.setdefault(id(p), []).append(name)
        for host_name, host, delta in self.hosts():
            if not isinstance(delta, WeightDelta):
                raise AdapterStateError(
                    f"{self.method.name} changes activations, not weights, so it cannot be merged; "
                    "use the adapter beside its base"
                )
            weights.check_writable(host_name, host, delta.folds)
            for name in delta.folds:
                if len(shared := owners[id(weights.own(host, name))]) > 1:
                    raise AdapterStateError(
                        f"{' and '.join(shared)} share one {name}, so merging would change them all; untie them first"
                    )

    def _attached_to(self) -> _State:
        state = _state(self.model)
        if state.adapters.get(self.name) is not self:
            raise AdapterStateError(f"adapter {self.name!r} is not attached")
        return state


def attach(
    model: nn.Module,
    method: Method,
    name: str = "default",
    *,
    heads: Sequence[str] | None = None,
    part: str | None = None,
) -> Adapter:
    """Place `method` in `model` under `name`, freeze the base, and make this the active adapter.

    `heads` are modules trained whole and saved with the adapter (PEFT's modules_to_save); by default the head that a
    task model, such as a classifier, has outside its pretrained base. `part` names a module of the base to which the
    adapter is kept: `core.sites.language_model(model)` is the one that reads texts, where there are other towers.
    Raises TargetError or AdapterStateError, having changed nothing, if the method does not fit the model.
    """
    adapter = prepare(model, method, name, heads=heads, part=part)
    join(adapter)
    return adapter


def prepare(
    model: nn.Module,
    method: Method,
    name: str = "default",
    *,
    heads: Sequence[str] | None = None,
    part: str | None = None,
) -> Adapter:
    """The adapter that `attach` would attach, with every check made and nothing changed."""
    weights.keep_trainable(model)
    state = getattr(model, "_inlay", None) or _State(Routing(), {}, {}, [])
    _check_name(name)
    if name in state.adapters:
        raise AdapterStateError(
            f"{type(model).__name__} already has an adapter {name!r}; detach it or choose another name"
        )
    if state.routing.merged is not None:
        raise AdapterStateError(f"adapter {state.routing.merged!r} is merged; unmerge it before attaching another")
    for other in state.adapters.values():
        if not other.removable:
            raise AdapterStateError(
                f"adapter {other.name!r} ({other.method.name}) trains the base itself; it stays alone"
            )

    if any(sharded.is_sharded(p) for p in model.parameters()):
        raise AdapterStateError(
            f"{type(model).__name__} is sharded over processes already; attach or load adapters first, and shard "
            "the model with them afterwards (fully_shard), so that they are trained alike everywhere"
        )
    sites = Sites(model, None if heads is None else tuple(heads), part)
    deltas = dict(method.place(sites))
    for host_name, host in sites.head_hosts():
        if host_name not in deltas:
            deltas[host_name] = Replacement(host, tuple(n for n, p in host._parameters.items() if p is not None))
    whole = sites if part is None else Sites(model, sites.heads)
    adapter = Adapter(name, method, model, sites.heads, deltas, fingerprint(whole), part)
    if state.adapters and not adapter.removable:
        raise AdapterStateError(f"{method.name} trains the base itself; detach {', '.join(state.adapters)} first")
    for host_name, host, _ in adapter.hosts():
        if hasattr(host, SLOT) and not isinstance(getattr(host, SLOT), Slot):
            raise TargetError(f"{host_name} has an attribute {SLOT!r} of its own, which is where adapters are put")
    return adapter


def join(adapter: Adapter) -> None:
    """Put a prepared adapter into its model, freeze the base, and make it the active one."""
    model = adapter.model
    state = getattr(model, "_inlay", None)
    if state is None:
        hooks = buffers.keep(model, list(Sites(model, ()).modules())) if adapter.removable else []
        state = _State(Routing(), {}, {n: p.requires_grad for n, p in model.named_parameters()}, hooks)
        model.requires_grad_(False)
        model.__dict__["_inlay"] = state
    for _, host, delta in adapter.hosts():
        if not hasattr(host, SLOT):
            setattr(host, SLOT, Slot(host, state.routing))
        delta.install(host)
        delta.train(host.training)
        for _, p in delta.trained(host):
            p.requires_grad_(True)
        getattr(host, SLOT).add(adapter.name, delta)
    state.adapters[adapter.name] = adapter
    state.routing.active = (adapter.name,)
    _forget_compiled_graphs()


@contextmanager
def using(model: nn.Module, *names: str, rows: Sequence[str | None] | None = None) -> Iterator[None]:
    """Run with these adapters (none: the base model), or with one adapter per row of the batch (None: the base).

    Keep the backward pass inside when gradient checkpointing is on: it runs the forward again. Raises AdapterStateError
    for an unknown name or a combination that cannot be had, such as the base beneath a merged adapter.
    """
    if rows is not None and names:
        raise AdapterStateError("name adapters for the whole batch or for its rows, not both")
    routing = _state(model).routing
    _check_usable(_state(model), set(names) if rows is None else {n for n in rows if n is not None}, rows is not None)
    before = routing.active, routing.rows, routing.row_count
    if rows is None:
        routing.active, routing.rows = names, None
    else:
        device = weights.device(model)
        routing.rows = {
            name: torch.tensor([i for i, row in enumerate(rows) if row == name], device=device)
            for name in dict.fromkeys(rows)
            if name is not None
        }
        routing.row_count = len(rows)
    try:
        yield
    finally:
        routing.active, routing.rows, routing.row_count = before


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters attached to `model`, by name."""
    state = getattr(model, "_inlay", None)
    return dict(state.adapters) if state else {}


def _state(model: nn.Module) -> _State:
    state = getattr(model, "_inlay", None)
    if state is None:
        raise AdapterStateError(f"{type(model).__name__} has no adapters; attach one first")
    return state


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AdapterStateError(
            f"adapter name {name!r}: use letters, digits, _ and -, since it is part of tensor names"
        )
    if hasattr(Slot, name) or name in nn.Module().__dict__ or name in ("routing", "hooks"):
        raise AdapterStateError(f"adapter name {name!r} is an attribute of every torch module; choose another one")


def _check_usable(state: _State, names: set[str], by_rows: bool) -> None:
    for name in sorted(names - state.adapters.keys()):
        raise AdapterStateError(f"no adapter {name!r} is attached{did_you_mean(name, state.adapters)}")
    for adapter in state.adapters.values():
        if (by_rows or adapter.name not in names) and not adapter.removable:
            raise AdapterStateError(
                f"adapter {adapter.name!r} ({adapter.method.name}) trained the base itself; the base is gone"
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


def _forget_compiled_graphs() -> None:
    """Graphs compiled earlier do not notice new or removed hooks: they would skip the adapter silently."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
