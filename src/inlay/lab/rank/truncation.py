"""An update cut to fewer directions, as an adapter of its own: a plain LoRA of scale 1, whatever the method was.

Cutting a singular value decomposition gives the best approximation of its rank. It keeps the update's matrices and the
heads; other parameters that the method has trained, such as biases, are the base's again. Experts that share a
parameter have one rank in the adapter; where less is there of one, its factors end in zeros.
"""

from collections.abc import Mapping
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attached.adapter import Adapter, attach
from ...core.delta import WeightDelta
from ...errors import SettingsError
from ...methods.ranked import product_of
from .ranks import ranks as ranks_of
from .sharing import share_out
from .spectrum import Spectrum
from .updates import expert_name

NAME = "cut"


def size(layer: Spectrum) -> int:
    """Return parameters of one direction."""
    return sum(layer.shape)


def uniform(layers: Mapping[str, Spectrum], rank: int) -> dict[str, int]:
    """Return the rank for every layer, or what a layer has if that is less; no layer's is 0, unless it
    has no update.
    """
    return {name: min(rank, available(layer)) for name, layer in layers.items()}


def by_energy(layers: Mapping[str, Spectrum], rank: int) -> dict[str, int]:
    """Return ranks that together keep the most of all the updates' energy, for no more parameters than `uniform`
    takes.
    """
    budget = parameters(layers, uniform(layers, rank))
    stacks = _stacks(layers)
    gains = {stack: _energies([layers[name] for name in names]) for stack, names in stacks.items()}
    sizes = {stack: sum(size(layers[name]) for name in names) for stack, names in stacks.items()}
    shared = share_out(gains, sizes, budget)
    return {name: min(shared[stack], available(layers[name])) for stack, names in stacks.items() for name in names}


def parameters(layers: Mapping[str, Spectrum], chosen: Mapping[str, int]) -> int:
    """Count those of the cut adapter, with what fills up the experts of a stack to its largest rank."""
    return sum(
        max(chosen.get(name, 0) for name in names) * sum(size(layers[name]) for name in names)
        for names in _stacks(layers).values()
    )


def _stacks(layers: Mapping[str, Spectrum]) -> dict[str, list[str]]:
    """Return the layers that have one rank together: experts that share a parameter, and any other layer alone."""
    stacks: dict[str, list[str]] = {}
    for name, layer in layers.items():
        stacks.setdefault(layer.stack or name, []).append(name)
    return stacks


def _energies(layers: list[Spectrum]) -> list[float]:
    """Return what each further direction of all of them adds."""
    own = [layer.values[: available(layer)].square().tolist() for layer in layers]
    return [sum(values) for values in zip_longest(*own, fillvalue=0.0)]


def available(layer: Spectrum) -> int:
    """Return directions that there are, of those that were kept."""
    return min(ranks_of(layer.values, layer.shape).numerical, layer.left_OK.shape[1])


def attach_cut(model: nn.Module, layers: Mapping[str, Spectrum], chosen: Mapping[str, int], tuned: Adapter) -> Adapter:
    """Attach to `model` the update of `tuned` cut to the `chosen` ranks, with the heads of `tuned`, and make it active.

    Raises SettingsError if nothing of it is left.
    """
    left = {name: rank for name, rank in chosen.items() if rank}
    if not left:
        raise SettingsError("the update is zero in every layer, so there is nothing to cut; train the adapter first")
    ranks: dict[str, int] = {}
    for name, rank in left.items():  # all experts of a stack have its largest rank
        stack = layers[name].stack or name
        ranks[stack] = max(rank, ranks.get(stack, 0))
    adapter = attach(model, product_of(ranks), NAME, heads=tuned.heads, part=tuned.part)
    with torch.no_grad():
        for name, host, delta in adapter.hosts():
            places = delta.factors() if isinstance(delta, WeightDelta) else {}
            for parameter, (own, _) in places.items():
                assert isinstance(delta, WeightDelta)
                if own.ndim == 2:
                    delta.set_factors(parameter, *_cut(layers[name], left[name]))
                    continue
                experts = [expert_name(name, parameter, expert) for expert in range(len(own))]
                cuts = [_cut(layers[expert], left.get(expert, 0), own.shape[-1]) for expert in experts]
                delta.set_factors(parameter, *map(torch.stack, zip(*cuts, strict=True)))
            if not places:  # a head
                trained = dict(tuned.deltas[name].trained(tuned.model.get_submodule(name)))
                for part, p in delta.trained(host):
                    p.copy_(trained[part])
    return adapter


def _cut(layer: Spectrum, rank: int, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Return both factors of the layer's best approximation of this rank, filled up with zeros to a rank of `size`."""
    left_OR, right_RI = (factor.float() for factor in layer.factors(rank))
    more = 0 if size is None else size - len(right_RI)
    return F.pad(left_OR, (0, more)), F.pad(right_RI, (0, 0, 0, more))
