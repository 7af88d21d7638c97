"""An update cut to fewer directions, as an adapter of its own: a plain LoRA of scale 1, whatever the method was.

Cutting a singular value decomposition gives the best approximation of its rank. It keeps the update's matrices and the
heads; other parameters that the method has trained, such as biases, are the base's again.
"""

from collections.abc import Mapping

import torch
from torch import nn

from ..core.adapter import Adapter, attach
from ..errors import SettingsError
from ..methods.reparameterized.lora import LoRA
from ..methods.reparameterized.low_rank import LowRank, LowRankConvolution, LowRankEmbedding
from .ranks import ranks
from .sharing import share_out
from .spectrum import Spectrum

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
    gains = {name: layer.values[: available(layer)].square().tolist() for name, layer in layers.items()}
    return share_out(gains, {name: size(layer) for name, layer in layers.items()}, budget)


def parameters(layers: Mapping[str, Spectrum], chosen: Mapping[str, int]) -> int:
    return sum(rank * size(layers[name]) for name, rank in chosen.items())


def available(layer: Spectrum) -> int:
    """Directions that there are, of those that were kept."""
    return min(ranks(layer.values, layer.shape).numerical, layer.left_OK.shape[1])


def attach_cut(model: nn.Module, layers: Mapping[str, Spectrum], chosen: Mapping[str, int], tuned: Adapter) -> Adapter:
    """The update of `tuned` cut to the `chosen` ranks, attached to `model` and active, with the heads of `tuned`.

    Raises SettingsError if nothing of it is left.
    """
    left = {name: rank for name, rank in chosen.items() if rank}
    if not left:
        raise SettingsError("the update is zero in every layer, so there is nothing to cut; train the adapter first")
    adapter = attach(model, LoRA.of_ranks(left), NAME, heads=tuned.heads, part=tuned.part)
    with torch.no_grad():
        for name, host, delta in adapter.hosts():
            if name in left:
                assert isinstance(delta, LowRank | LowRankEmbedding | LowRankConvolution)
                delta.set_thin(*(factor.float() for factor in layers[name].factors(left[name])))
            else:
                trained = dict(tuned.deltas[name].trained(tuned.model.get_submodule(name)))
                for part, p in delta.trained(host):
                    p.copy_(trained[part])
    return adapter
