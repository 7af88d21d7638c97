"""What of a model's body an adapter reaches, and what it leaves out, with the reason.

A change of a weight reaches the parameters of its host; one of activations reaches the block that it is in or, outside
all blocks, the whole module that it is at. Heads do not count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..core.attachment import Attachment
from ..core.delta import WeightDelta
from ..models import experts, weights
from ..models.modules import normalizes, within
from ..models.sites import ALL_LINEAR, Sites


@dataclass(frozen=True)
class LeftOut:
    """Parameters that no host reaches, all for one reason."""

    reason: str
    names: tuple[str, ...]
    """The modules that own them."""
    parameters: int
    share: float
    """The part of the body's parameters."""


@dataclass(frozen=True)
class Coverage:
    """How much of a model's body an adapter reaches, and what it leaves out."""

    parameters: int
    """The body's: the pretrained base without the heads; each counts once, wherever it is used."""
    share: float
    """What part of them is in a host's reach."""
    left_out: tuple[LeftOut, ...]
    """The largest first."""
    virtual_tokens: int = 0
    """How many positions the model reads beside each text; where there are some no layer is changed."""


def coverage(adapter: Attachment, targets: Sequence[str] = (), virtual_tokens: int = 0) -> Coverage:
    """Compare what the hosts reach with all of the model's body. `targets` are those that the method was given, and
    `virtual_tokens` the positions that it adds."""
    sites = Sites(adapter.model, adapter.heads, adapter.part)
    reached = _reached(adapter, sites)
    counted: set[int] = set()
    total, left = 0, dict[str, dict[str, int]]()
    for name, module in Sites(adapter.model, adapter.heads).body():
        for p in module._parameters.values():
            if p is None or id(p) in counted:
                continue
            counted.add(id(p))
            count = _count(module, p)
            total += count
            if id(p) not in reached:
                group = left.setdefault(_reason(adapter, targets, sites, name, module), {})
                group[name] = group.get(name, 0) + count
    found = [LeftOut(why, tuple(own), sum(own.values()), sum(own.values()) / total) for why, own in left.items()]
    out = sum(group.parameters for group in found)
    left_out = tuple(sorted(found, key=lambda group: -group.parameters))
    return Coverage(total, 1 - out / total if total else 1.0, left_out, virtual_tokens)


def _count(module: nn.Module, p: Tensor) -> int:
    """Return the numbers that it stands for: a quantized weight has several in one element."""
    packed = weights.is_linear(module) and weights.is_packed(module) and p is module._parameters.get("weight")
    return math.prod(weights.size(module)) if packed else p.numel()


def _reached(adapter: Attachment, sites: Sites) -> set[int]:
    found = {id(p) for name, host, delta in adapter.hosts() for p in _reach(sites, name, host, delta)}
    if sites.part is None:
        return found
    # what a whole model hosts, such as a prefix, passes the part that the adapter is kept to and no other tower
    return found & {id(p) for p in adapter.model.get_submodule(sites.part).parameters()}


def _reach(sites: Sites, name: str, host: nn.Module, delta: nn.Module) -> Iterator[Tensor]:
    if not isinstance(delta, WeightDelta) and delta.removable:
        block = next((b for b in sites.blocks if within(name, [b])), None)
        yield from (host if block is None else sites.blocks[block]).parameters()
        return
    folds = delta.folds if isinstance(delta, WeightDelta) else tuple(host._parameters)
    whole = weights.is_linear(host) and "weight" in folds  # its bias is a constant that the change goes beside
    yield from (p for own, p in host._parameters.items() if p is not None and (whole or own in folds))


def _reason(adapter: Attachment, targets: Sequence[str], sites: Sites, name: str, module: nn.Module) -> str:
    if sites.part is not None and not within(name, [sites.part]):
        return f"outside {sites.part}, to which the adapter is kept"
    if name in sites.bypassed:
        return "layers whose weight is read without calling them"
    if name in sites.routers or (not experts.expert_weights(module) and experts.matrices(module)):
        return "router"
    kind = _kind(module)
    if kind in _OF_TARGETS and targets and ALL_LINEAR not in targets:
        return f"not among the targets: {', '.join(targets)}"
    changed = _changes(adapter)
    if kind in changed:
        return f"{kind} that {adapter.made_by} leaves as they are"
    return f"{kind}: {adapter.made_by} changes {' and '.join(changed) or 'heads only'}"


def _changes(adapter: Attachment) -> list[str]:
    """Return what the adapter changes, such as plain linear layers."""
    hosts = [(host, delta) for name, host, delta in adapter.hosts() if not within(name, adapter.heads)]
    return list(dict.fromkeys(_changed(host, delta) for host, delta in hosts))


def _changed(host: nn.Module, delta: nn.Module) -> str:
    if not isinstance(delta, WeightDelta):
        return "what blocks compute"
    return "biases" if delta.folds == ("bias",) else _kind(host)


def _kind(module: nn.Module) -> str:
    if weights.is_linear(module):
        return "plain linear layers"
    if experts.expert_weights(module):
        return "experts"
    if experts.packed(module):
        return "packed experts"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    return "normalizations" if normalizes(module) else "other modules"


_OF_TARGETS = ("plain linear layers", "experts", "packed experts")
