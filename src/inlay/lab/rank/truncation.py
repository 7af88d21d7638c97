"""An update cut to fewer directions, as an adapter of its own: a plain LoRA of scale 1, whatever the method was.

Cutting a singular value decomposition gives the best approximation of its rank. It keeps the update's matrices and the
heads; other parameters that the method has trained, such as biases, are the base's again. Experts that share a
parameter have one rank in the adapter; where less is there of one, its factors end in zeros.
"""

from collections.abc import Mapping
from itertools import zip_longest

import torch
from torch import nn

from ...attached.adapter import Adapter, attach
from ...core.delta import WeightDelta
from ...errors import SettingsError
from ...methods.reparameterized.lora import LoRA
from ...methods.reparameterized.low_rank import LowRank, LowRankConvolution, LowRankEmbedding
from ...methods.reparameterized.low_rank_experts import LowRankExperts
from .ranks import ranks as ranks_of
from .sharing import share_out
from .spectrum import Spectrum
from .updates import expert_name

NAME = "cut"


def size(layer: Spectrum) -> int:
    """Parameters of one direction."""
    return sum(layer.shape)


def uniform(layers: Mapping[str, Spectrum], rank: int) -> dict[str, int]:
    """The rank for every layer, or what a layer has if that is less; no layer's is 0, unless it has no update."""
    return {name: min(rank, available(layer)) for name, layer in layers.items()}


def by_energy(layers: Mapping[str, Spectrum], rank: int) -> dict[str, int]:
    """Ranks that together keep the most of all the updates' energy, for no more parameters than `uniform` takes."""
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
    """The layers that have one rank together: experts that share a parameter, and any other layer alone."""
    stacks: dict[str, list[str]] = {}
    for name, layer in layers.items():
        stacks.setdefault(layer.stack or name, []).append(name)
    return stacks


def _energies(layers: list[Spectrum]) -> list[float]:
    """What each further direction of all of them adds."""
    own = [layer.values[: available(layer)].square().tolist() for layer in layers]
    return [sum(values) for values in zip_longest(*own, fillvalue=0.0)]


def available(layer: Spectrum) -> int:
    """Directions that there are, of those that were kept."""
    return min(ranks_of(layer.values, layer.shape).numerical, layer.left_OK.shape[1])


def attach_cut(model: nn.Module, layers: Mapping[str, Spectrum], chosen: Mapping[str, int], tuned: Adapter) -> Adapter:
    """The update of `tuned` cut to the `chosen` ranks, attached to `model` and active, with the heads of `tuned`.

    Raises SettingsError if nothing of it is left.
    """
    left = {name: rank for name, rank in chosen.items() if rank}
    if not left:
        raise SettingsError("the update is zero in every layer, so there is nothing to cut; train the adapter first")
    experts = _experts(tuned)
    ranks = {name: rank for name, rank in left.items() if name not in experts}
    for name in left.keys() & experts.keys():  # all experts of a stack have its largest rank
        host, parameter, _ = experts[name]
        stack = f"{host}.{parameter}"
        ranks[stack] = max(left[name], ranks.get(stack, 0))
    adapter = attach(model, LoRA.of_ranks(ranks), NAME, heads=tuned.heads, part=tuned.part)
    with torch.no_grad():
        for name, (host, parameter, expert) in experts.items():
            delta = adapter.deltas.get(host)
            if isinstance(delta, LowRankExperts) and parameter in delta.folds:
                factors = (factor.float() for factor in layers[name].factors(left.get(name, 0)))
                delta.set_thin_expert(parameter, expert, *factors)
        for name, host, delta in adapter.hosts():
            if isinstance(delta, LowRankExperts):
                continue
            if name in left:
                assert isinstance(delta, LowRank | LowRankEmbedding | LowRankConvolution)
                delta.set_thin(*(factor.float() for factor in layers[name].factors(left[name])))
            else:
                trained = dict(tuned.deltas[name].trained(tuned.model.get_submodule(name)))
                for part, p in delta.trained(host):
                    p.copy_(trained[part])
    return adapter


def _experts(tuned: Adapter) -> dict[str, tuple[str, str, int]]:
    """The layers that are single experts: host, parameter and which one."""
    return {
        expert_name(host, parameter, expert): (host, parameter, expert)
        for host, delta in tuned.deltas.items()
        if isinstance(delta, WeightDelta)
        for parameter, (left_EOR, _) in delta.thin_experts().items()
        for expert in range(len(left_EOR))
    }
