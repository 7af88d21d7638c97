"""A base whose linear layers are kept in 4 bits while adapters beside them are trained, which is QLoRA.

https://arxiv.org/abs/2305.14314

A weight is cut into blocks of 64 numbers, each becomes one of 16 quantiles of the normal distribution (NF4) times the
block's largest magnitude, and these magnitudes are quantized in turn (double quantization): 4.13 bits a weight. Layers
run by forming the weight again, in the dtype of the computation. They can be quantized while a model is read, so that
it is never there in more than 4 bits and one layer.
"""

import importlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..attached.adapter import adapters
from ..errors import AdapterStateError, TargetError
from ..extras import check_installed
from ..models import mapped, weights
from ..models.fingerprint import remember
from ..models.sites import Sites
from .arrival import Arrival


class Packing:
    """The layers of one base that are quantized as they are read, each on the device where it computes."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        check_installed("bitsandbytes", "quantization needs bitsandbytes", "quantize")
        self.dtype, self.device = dtype, device
        self.wanted: set[int] | None = None  # known when the first parameter has arrived
        self.packed: dict[int, nn.Module] = {}

    def take(self, arrival: Arrival) -> nn.Parameter:
        return arrival.parameter if self.packed_of(arrival) is None else arrival.without_values()

    def packed_of(self, arrival: Arrival) -> nn.Module | None:
        """Quantize what has arrived; None if it is to stay as it is."""
        if self.wanted is None:
            self.wanted = {id(layer) for layer in unshared_linears(Sites(arrival.model))}
        layer, p = arrival.module, arrival.parameter
        if arrival.name != "weight" or id(layer) not in self.wanted:
            return None
        self.packed[id(layer)] = packed = _packed(layer, p.detach().to(self.device), self.dtype)
        if mapped.is_mapped(p):
            mapped.let_go(p)
        return packed

    def finish(self, model: nn.Module, heads: Sequence[str]) -> None:
        """Put the quantized layers in their places, when all else is on the device."""
        quantize(model, self.dtype, heads=heads, packed=self.packed)


def quantize(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    heads: Sequence[str] | None = None,
    packed: Mapping[int, nn.Module] = MappingProxyType({}),
) -> None:
    """Keep the linear layers of the pretrained body in 4 bits, in place; they compute in `dtype`.

    Embeddings, a language model's head, `heads` (as in `attach`), layers that share their weight with another module
    and those that the model's authors keep in float32 stay as they are. A layer is a new module under its old name, so
    quantize before anything holds on to one. Works on a model without values too. What has been `packed` on its way,
    by layer, is not done again. Raises SettingsError if bitsandbytes is not installed, AdapterStateError if the model
    has adapters and TargetError if it has no layer to quantize, having changed nothing.
    """
    check_installed("bitsandbytes", "quantization needs bitsandbytes", "quantize")
    if attached := adapters(model):
        raise AdapterStateError(
            f"{type(model).__name__} has adapters already ({', '.join(attached)}); quantize it before attaching any"
        )
    layers = unshared_linears(Sites(model, None if heads is None else tuple(heads)))
    if not layers:
        raise TargetError(f"{type(model).__name__} has no linear layers that could be quantized")
    done = {id(layer): _in_place_of(layer, packed.get(id(layer)), dtype) for layer in layers}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in done:
                parent._modules[name] = done[id(child)]
    weights.keep_trainable(model)


def unshared_linears(sites: Sites) -> list[Any]:
    """Find the linear layers of the pretrained body that nothing but their own forward reads, as far as one can see."""
    owners = Counter(id(p) for _, module in sites.modules() for p in module._parameters.values())
    tied: Mapping[str, str] = getattr(sites.model, "all_tied_weights_keys", {})  # they are one only when all are read
    shared = {*tied, *tied.values()}
    whole = set(getattr(sites.model, "_keep_in_fp32_modules", None) or ())
    return [
        module
        for name, module in sites.body()
        if type(module) in (nn.Linear, Conv1D)  # a subclass may read its weight in ways of its own
        and owners[id(module.weight)] == 1
        and f"{name}.weight" not in shared
        and whole.isdisjoint(name.split("."))
    ]


def _in_place_of(layer: Any, packed: nn.Module | None, dtype: torch.dtype) -> nn.Module:
    """Return the quantized layer, which gets the bias of the one that it replaces."""
    if packed is None:
        packed = _packed(layer, layer.weight.detach(), dtype)
    if layer.bias is not None:
        layer.bias.data = layer.bias.data.to(dtype)  # else the first forward pass would do it
    packed.register_parameter("bias", layer.bias)
    layer.weight = None  # so that there is never a second copy of all of them
    return packed.train(layer.training)


def _packed(layer: nn.Module, weight: Tensor, dtype: torch.dtype) -> nn.Module:
    """Quantize the weight of a layer, as a layer of its own without a bias."""
    bitsandbytes = _bitsandbytes()
    out_features, in_features = weights.size(layer)
    weight_OI = weight.T if weights.is_flipped(layer) else weight
    # Bitsandbytes keeps the table of the first double quantization for good, which must not be one without values.
    settings = {"compress_statistics": not weight_OI.is_meta, "quant_type": "nf4"}
    numbers, state = bitsandbytes.functional.quantize_4bit(weight_OI.to(dtype), **settings)
    with torch.device("meta"):
        packed = bitsandbytes.nn.Linear4bit(in_features, out_features, False, compute_dtype=dtype, **settings)
    packed.weight = bitsandbytes.nn.Params4bit(numbers, quant_state=state, bnb_quantized=True, **settings)
    packed.quant_state = state
    if not weight_OI.is_meta:
        remember(packed, weight)
    return packed


def _bitsandbytes() -> ModuleType:
    # On some processors it says while it is imported that it has not found a kernel, which nothing here would run.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return importlib.import_module("bitsandbytes")
