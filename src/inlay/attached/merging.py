"""An adapter in the base's weights: merged and taken out again, or for good; believed only if it computes the same."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.attachment import Attachment
from ..core.delta import WeightDelta
from ..core.routing import Route
from ..core.slot import Slot
from ..core.state import SLOT, State, state_of, state_with
from ..errors import AdapterStateError, VerificationFailed
from ..models import trial, weights
from ..models.modules import base_modules
from ..models.trial import Batch
from ..models.weights import Host

# The largest difference to the adapted outputs that rounding explains, as a part of the largest of them.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@torch.no_grad()
def merge(adapter: Attachment, batch: Batch | None = None) -> bool:
    """Do what Adapter.merge says."""
    state = state_with(adapter)
    routing = state.routing
    if routing.merged is not None:
        raise AdapterStateError(f"adapter {routing.merged!r} is merged already; unmerge it first")
    check_mergeable(adapter)
    _check_not_overridden(adapter, state)
    for host_name, name, tensor in adapter.tensors():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            raise VerificationFailed(
                f"adapter {adapter.name!r} has numbers that are not finite, in {name} at {host_name}, so it is not "
                "merged; train it again or load an earlier state of it"
            )
    inputs = trial.token_inputs(adapter.model, rows=1) if batch is None else batch
    expected = None if inputs is None else _outputs(adapter, inputs, must_run=batch is not None)
    _write(adapter)
    routing.merged = adapter.name
    try:
        _check_finite(adapter)
        if expected is not None and inputs is not None:
            _check_equal(adapter, expected, _outputs(adapter, inputs, must_run=True) or [])
    except BaseException:
        unmerge(adapter)
        raise
    if adapter.name not in routing.lasting.names:
        routing.lasting = Route((adapter.name,))
    return expected is not None


def unmerge(adapter: Attachment) -> None:
    """Put the base's weights back, bit for bit."""
    routing = state_of(adapter.model).routing
    if routing.merged != adapter.name:
        raise AdapterStateError(f"adapter {adapter.name!r} is not merged")
    for host, slot, _ in _slots(adapter):
        assert slot._unmerged is not None
        weights.write(host, weights.laid_out(host, slot._unmerged))
        slot._unmerged = None
    routing.merged = None


def keep_merged(adapter: Attachment) -> None:
    """Make the merged weights the base's own: nothing is left to unmerge."""
    for _, slot, _ in _slots(adapter):
        slot._unmerged = None
    state_of(adapter.model).routing.merged = None


def check_mergeable(adapter: Attachment) -> None:
    """Raise AdapterStateError if `merge` could not do it; on a model without values too."""
    if not adapter.removable:
        raise AdapterStateError(f"{adapter.made_by} trained the base model itself: there is nothing to merge")
    owners: dict[int, list[str]] = {}
    for name, module in base_modules(adapter.model):
        for p in (*module._parameters.values(), *module._buffers.values()):
            owners.setdefault(id(p), []).append(name)
    for host_name, host, delta in adapter.hosts():
        if not isinstance(delta, WeightDelta):
            raise AdapterStateError(
                f"{adapter.made_by} changes activations, not weights, so it cannot be merged; "
                "use the adapter beside its base"
            )
        weights.check_writable(host_name, host, delta.folds)
        for name in delta.folds:
            tensor = id(weights.own(host, name))
            shared = owners[tensor]
            if len(shared) > 1 and not _adapted_alike(adapter, shared, tensor):
                raise AdapterStateError(
                    f"{' and '.join(shared)} share one {name}, so merging would change them all; untie them first: "
                    f"set model.config.tie_word_embeddings = False if they are embeddings, and {host_name}.{name} = "
                    f"torch.nn.Parameter({host_name}.{name}.detach().clone()), before attaching"
                )


def _adapted_alike(adapter: Attachment, holders: list[str], tensor: int) -> bool:
    """Tell whether one trained copy stands in for the tensor, or for the same rows of it, in each module that holds
    it.
    """
    copies: set[int] = set()
    for holder in holders:
        delta = adapter.deltas.get(holder)
        if not isinstance(delta, WeightDelta):
            return False
        for name, p in adapter.model.get_submodule(holder)._parameters.items():
            if id(p) == tensor:
                copies.add(id(delta.copies().get(name)))
    return len(copies) == 1 and id(None) not in copies


def _check_not_overridden(adapter: Attachment, state: State) -> None:
    for route in state.routing.overrides.values():
        if route.rows is not None or adapter.name not in route.names:
            raise AdapterStateError(
                f"adapter {adapter.name!r} cannot be merged inside using(...) that leaves it out; merge it outside"
            )


def _slots(adapter: Attachment) -> Iterator[tuple[Host, Slot, WeightDelta]]:
    """Yield each host with its slot and the adapter's delta there."""
    for _, host, delta in adapter.hosts():
        assert isinstance(delta, WeightDelta)
        yield host, getattr(host, SLOT), delta


def _write(adapter: Attachment) -> None:
    for host, slot, delta in _slots(adapter):
        own = weights.read(host, delta.folds)
        slot._unmerged = weights.laid_out(host, {name: p.detach().clone() for name, p in own.items()})
    for host, slot, delta in _slots(adapter):  # after all were kept, since some share a tensor
        assert slot._unmerged is not None
        kept = weights.laid_out(host, slot._unmerged)
        exact = {name: p.to(torch.promote_types(p.dtype, torch.float32)) for name, p in kept.items()}
        weights.write(host, delta.fold(exact))


def _check_finite(adapter: Attachment) -> None:
    for host, slot, _ in _slots(adapter):
        for name, before in (slot._unmerged or {}).items():
            after = weights.own(host, name)
            assert after is not None
            if not after.is_meta and not after.isfinite().all() and before.isfinite().all():
                raise VerificationFailed(
                    f"merged, {name} of a {type(host).__name__} would have numbers that are not finite in "
                    f"{after.dtype}; load the base in another dtype, or use the adapter without merging it"
                )


def _outputs(adapter: Attachment, batch: Batch, must_run: bool) -> list[Tensor] | None:
    """Return what the model computes with this adapter alone, in evaluation mode; None if it does not take such a
    batch.
    """
    routing = state_of(adapter.model).routing
    try:
        with routing.during(Route((adapter.name,))), trial.evaluating(adapter.model):
            return [tensor.detach().clone() for tensor in trial.numbers(trial.call(adapter.model, batch))]
    except Exception:
        if must_run:
            raise
        return None


def _check_equal(adapter: Attachment, expected: list[Tensor], merged: list[Tensor]) -> None:
    """Compare position by position and judge by their median: rounding can send a token to another expert."""
    dtype = min((p.dtype for _, host, _ in adapter.hosts() for p in host.parameters()), key=lambda d: d.itemsize)
    for one, other in zip(expected, merged, strict=True):
        if one.numel() == 0:
            continue
        scale = one.abs().max().float()
        apart = (one - other).abs().float()
        apart = apart.amax(-1) if apart.ndim > 1 else apart
        difference = apart.flatten().median()
        if not difference <= _ROUNDING.get(dtype, 1e-1) * scale:
            raise VerificationFailed(
                f"merged, adapter {adapter.name!r} would compute something else: outputs up to {scale:.2g} differ by "
                f"{difference:.2g}. The model reads a weight without calling its layer, where an adapter does nothing; "
                "adapter.check(batch) names such layers. Nothing is merged"
            )
