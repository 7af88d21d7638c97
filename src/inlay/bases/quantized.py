"""A base whose linear layers are kept in 4 bits while adapters beside them are trained, which is QLoRA.

https://arxiv.org/abs/2305.14314

A weight is cut into blocks of 64 numbers, each becomes one of 16 quantiles of the normal distribution (NF4) times the
block's largest magnitude, and these magnitudes are quantized in turn (double quantization): 4.13 bits a weight. Layers
run by forming the weight again, in the dtype of the computation.
"""

import importlib
import logging
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..attached.adapter import adapters
from ..errors import AdapterStateError, TargetError
from ..extras import check_installed
from ..models import weights
from ..models.fingerprint import remember
from ..models.sites import Sites


def quantize(model: nn.Module, dtype: torch.dtype, *, heads: Sequence[str] | None = None) -> None:
    """Keep the linear layers of the pretrained body in 4 bits, in place; they compute in `dtype`.

    Embeddings, a language model's head, `heads` (as in `attach`), layers that share their weight with another module
    and those that the model's authors keep in float32 stay as they are. A layer is a new module under its old name, so
    quantize before anything holds on to one. Works on a model without values too. Raises SettingsError if bitsandbytes
    is not installed, AdapterStateError if the model has adapters and TargetError if it has no layer to quantize, having
    changed nothing.
    """
    check_installed("bitsandbytes", "quantization needs bitsandbytes", "quantize")
    if attached := adapters(model):
        raise AdapterStateError(
            f"{type(model).__name__} has adapters already ({', '.join(attached)}); quantize it before attaching any"
        )
    layers = _layers(Sites(model, None if heads is None else tuple(heads)))
    if not layers:
        raise TargetError(f"{type(model).__name__} has no linear layers that could be quantized")
    packed = {id(layer): _packed(layer, dtype) for layer in layers}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in packed:
                parent._modules[name] = packed[id(child)]
    weights.keep_trainable(model)


def _layers(sites: Sites) -> list[Any]:
    owners = Counter(id(p) for _, module in sites.modules() for p in module._parameters.values())
    whole = set(getattr(sites.model, "_keep_in_fp32_modules", None) or ())
    return [
        module
        for name, module in sites.body()
        if type(module) in (nn.Linear, Conv1D)  # a subclass may read its weight in ways of its own
        and owners[id(module.weight)] == 1
        and whole.isdisjoint(name.split("."))
    ]


def _packed(layer: Any, dtype: torch.dtype) -> nn.Module:
    bitsandbytes = _bitsandbytes()
    out_features, in_features = weights.size(layer)
    weight_OI = layer.weight.detach().T if weights.is_flipped(layer) else layer.weight.detach()
    # Bitsandbytes keeps the table of the first double quantization for good, which must not be one without values.
    settings = {"compress_statistics": not weight_OI.is_meta, "quant_type": "nf4"}
    numbers, state = bitsandbytes.functional.quantize_4bit(weight_OI.to(dtype), **settings)
    with torch.device("meta"):
        packed = bitsandbytes.nn.Linear4bit(in_features, out_features, False, compute_dtype=dtype, **settings)
    packed.weight = bitsandbytes.nn.Params4bit(numbers, quant_state=state, bnb_quantized=True, **settings)
    packed.quant_state = state
    if not weight_OI.is_meta:
        remember(packed, layer.weight)
    if layer.bias is not None:
        layer.bias.data = layer.bias.data.to(dtype)  # else the first forward pass would do it
    packed.bias = layer.bias
    layer.weight = None  # so that there is never a second copy of all of them
    return packed.train(layer.training)


def _bitsandbytes() -> ModuleType:
    # On some processors it says while it is imported that it has not found a kernel, which nothing here would run.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return importlib.import_module("bitsandbytes")
