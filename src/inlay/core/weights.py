"""The only file that knows how a host stores its parameters: layout (Conv1D) and quantization.

A linear host is used as it is, quantized or not: running it needs only its forward, and so does reading it (the forward
of the identity matrix is the weight). Only merging writes, and only into plain floating-point tensors.
"""

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from ..errors import AdapterStateError

Host = Any  # an nn.Module; what attributes it has depends on its kind, which is what this file asks


def is_linear(host: Host) -> bool:
    """Whether the host computes x W' + b; quantized linears of other libraries say so by in_features, out_features."""
    if isinstance(host, NonDynamicallyQuantizableLinear):
        return False  # nn.MultiheadAttention's: it reads the weights and never calls the layer, so no hook would run
    if isinstance(host, nn.Linear | Conv1D):
        return True
    return isinstance(getattr(host, "in_features", None), int) and isinstance(getattr(host, "out_features", None), int)


def is_flipped(host: Host) -> bool:
    """Whether a linear host keeps its weight as (I, O)."""
    return isinstance(host, Conv1D)


def size(host: Host) -> tuple[int, int]:
    """(O, I) of a linear host, read from its geometry because quantized weights are packed."""
    if isinstance(host, Conv1D):
        return host.nf, host.nx
    return host.out_features, host.in_features


def device(host: Host) -> torch.device:
    """Where the host's parameters are; a host may keep none of its own."""
    tensor = next(chain(host.parameters(), host.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def read(host: Host, names: Collection[str] = ("weight",)) -> dict[str, Tensor]:
    """The host's parameters, dense, the weight as (O, I) for linear hosts. Absent ones (bias=None) are left out."""
    params = {name: p for name in names if isinstance(p := getattr(host, name, None), Tensor)}
    if "weight" in names and is_linear(host):
        if "weight" not in params or not _is_plain(host, params["weight"]):
            params["weight"] = _weight_by_forward(host)
        elif is_flipped(host):
            params["weight"] = params["weight"].T
    return params


def shadow(host: Host, params: dict[str, Tensor]) -> None:
    """Make `host.weight` read as `params["weight"]` until unshadow, leaving host._parameters alone.

    Instance attributes win over nn.Module.__getattr__, so parameter names, optimizers and state dicts see no change.
    """
    host.__dict__.update(params)


def unshadow(host: Host, names: Iterable[str]) -> None:
    for name in names:
        host.__dict__.pop(name, None)


@torch.no_grad()
def write(host: Host, params: dict[str, Tensor]) -> None:
    """Copy dense `params`, the weight as (O, I) for linear hosts, into the host's own. Check with `writable` first."""
    for name, p in params.items():
        target = host._parameters[name]
        assert target is not None
        target.copy_(p.T if is_flipped(host) and name == "weight" else p)


def check_writable(host_name: str, host: Host, names: Iterable[str]) -> None:
    """Raises AdapterStateError if a parameter is absent or packed, so that it could not hold what `write` writes."""
    for name in names:
        target = host._parameters.get(name)
        if target is None:
            raise AdapterStateError(f"{host_name} has no {name} to merge into; use the adapter without merging it")
        if name == "weight" and is_linear(host) and not _is_plain(host, target):
            raise AdapterStateError(
                f"{host_name}.weight is a {type(target).__name__} ({target.dtype}), which cannot hold a merged weight; "
                "load the base model in 16 or 32 bits and merge there"
            )


def _is_plain(host: Host, weight: Tensor) -> bool:
    out_features, in_features = size(host)
    shape = (in_features, out_features) if is_flipped(host) else (out_features, in_features)
    return weight.is_floating_point() and tuple(weight.shape) == shape


@torch.no_grad()
def _weight_by_forward(host: Host) -> Tensor:
    """The dense (O, I) weight of a packed linear: its forward of the identity, without its bias."""
    bias = getattr(host, "bias", None)
    dtype = bias.dtype if isinstance(bias, Tensor) else torch.get_default_dtype()
    eye_II = torch.eye(size(host)[1], dtype=dtype, device=device(host))
    weight_IO = host.forward(eye_II)
    return (weight_IO if bias is None else weight_IO - bias).T
