"""The only file that knows how a host stores its parameters: layout (Conv1D) and quantization.

A linear host is used as it is, quantized or not: running it needs only its forward, and so does reading it (the forward
of the identity matrix is the weight). The 4-bit layers of bitsandbytes are read by its own look-up instead, since a
layer computes ever after in the dtype of its first forward. Only merging writes, and only into plain floating-point
tensors.
"""

import copy
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from ..errors import AdapterStateError

_BLOCK = 2**22  # numbers, of a weight that is cast up in parts

Host = Any  # an nn.Module; what attributes it has depends on its kind, which is what this file asks


def is_linear(host: Host) -> bool:
    """Whether the host computes x W' + b; quantized linears of other libraries say so by in_features, out_features."""
    if isinstance(host, NonDynamicallyQuantizableLinear):
        return False  # nn.MultiheadAttention's: it reads the weights and never calls the layer, so no hook would run
    if isinstance(host, nn.Linear | Conv1D):
        return True
    if not (
        isinstance(getattr(host, "in_features", None), int) and isinstance(getattr(host, "out_features", None), int)
    ):
        return False
    own = getattr(host, "weight", None)
    return not (isinstance(own, Tensor) and own.ndim == 3 and own.is_floating_point())  # a stack of experts: no one W


def is_flipped(host: Host) -> bool:
    """Whether a linear host keeps its weight as (I, O)."""
    return isinstance(host, Conv1D)


def size(host: Host) -> tuple[int, int]:
    """(O, I) of a linear host, read from its geometry because quantized weights are packed."""
    if isinstance(host, Conv1D):
        return host.nf, host.nx
    return host.out_features, host.in_features


def is_packed(host: Host) -> bool:
    """Whether a linear host keeps its weight in another form than plain numbers."""
    own = getattr(host, "weight", None)
    return not isinstance(own, Tensor) or not _is_plain(host, own)


def device(host: Host) -> torch.device:
    """Where the host's parameters are; a host may keep none of its own."""
    tensor = next(chain(host.parameters(), host.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def read(host: Host, names: Collection[str] = ("weight",)) -> dict[str, Tensor]:
    """The host's parameters, dense, the weight as (O, I) for linear hosts. Absent ones (bias=None) are left out."""
    params = {name: p for name in names if isinstance(p := getattr(host, name, None), Tensor)}
    if "weight" in names and is_linear(host):
        weight_OI = _dense(host)
        params["weight"] = _weight_by_forward(host) if weight_OI is None else weight_OI
    return params


@torch.no_grad()
def product(host: Host, x_NI: Tensor) -> Tensor:
    """x W' of a linear host, without its bias, in float32 or finer unless only its forward can tell.

    A weight in 16 bits is cast up one block of rows after the other, so that there is never a whole copy.
    """
    weight_OI = _dense(host)
    if weight_OI is None:
        return _run(host, x_NI).to(x_NI.dtype)
    wide = torch.promote_types(weight_OI.dtype, x_NI.dtype)
    with torch.autocast(x_NI.device.type, enabled=False):
        return torch.cat([x_NI.to(wide) @ block_OI.to(wide).T for block_OI in blocks(weight_OI)], dim=1)


def blocks(weight_OI: Tensor) -> tuple[Tensor, ...]:
    """The weight in blocks of rows small enough to be cast up."""
    return weight_OI.split(max(1, _BLOCK // weight_OI.shape[1]))


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
    for name, p in laid_out(host, params).items():
        target = host._parameters[name]
        assert target is not None
        target.copy_(p)


def laid_out(host: Host, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Dense `params`, the weight as (O, I) for linear hosts, as views in the layout that the host keeps them in."""
    return {name: p.T if is_flipped(host) and name == "weight" else p for name, p in params.items()}


def check_writable(host_name: str, host: Host, names: Iterable[str]) -> None:
    """Raises AdapterStateError if a parameter is absent or packed, so that it could not hold what `write` writes."""
    for name in names:
        target = host._parameters.get(name)
        if target is None:
            raise AdapterStateError(f"{host_name} has no {name} to merge into; use the adapter without merging it")
        if name == "weight" and is_linear(host) and is_packed(host):
            raise AdapterStateError(
                f"{host_name}.weight is a {type(target).__name__} ({target.dtype}), which cannot hold a merged weight; "
                "load the base model in 16 or 32 bits and merge there"
            )


def keep_trainable(model: nn.Module) -> None:
    """Keep the 4-bit layers of bitsandbytes from repacking their weights, and undo it where that has happened.

    On a CPU with AVX512-BF16 a layer's first evaluation would repack them for inference, for good: from then on it is
    less exact and gives its input no gradient, so that what comes before it learns nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
            if _is_repacked(module):
                module.state_dict()  # brings the weights into the order that a file has
                state: Any = getattr(module.weight, "quant_state", None)
                if state.absmax.ndim > 1:  # what it forgets, unless the blocks' magnitudes are quantized too
                    state.absmax = state.absmax.T.reshape(-1).float()


def _is_plain(host: Host, weight: Tensor) -> bool:
    out_features, in_features = size(host)
    shape = (in_features, out_features) if is_flipped(host) else (out_features, in_features)
    return weight.is_floating_point() and tuple(weight.shape) == shape


@torch.no_grad()
def _dense(host: Host) -> Tensor | None:
    """The weight as (O, I), if there is a way to it other than the host's forward."""
    own = getattr(host, "weight", None)
    if not isinstance(own, Tensor):
        return None
    if _is_plain(host, own):
        return own.T if is_flipped(host) else own
    state = getattr(own, "quant_state", None)
    if state is None or _is_repacked(host):
        return None
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

    state = copy.copy(state)
    state.dtype = torch.float32  # in that of the base the numbers would be rounded once more
    return dequantize_4bit(own.data, state)


def _is_repacked(host: Host) -> bool:
    return getattr(getattr(host.weight, "quant_state", None), "packing_format_for_cpu", False)


@torch.no_grad()
def _weight_by_forward(host: Host) -> Tensor:
    """The dense (O, I) weight of a packed linear: its forward of the identity, without its bias."""
    return _run(host, torch.eye(size(host)[1], device=device(host))).T


def _run(host: Host, x_NI: Tensor) -> Tensor:
    """The forward of a packed linear, without its bias, whose dtype is also that of the computation."""
    bias = getattr(host, "bias", None)
    h_NO = host.forward(x_NI.to(bias.dtype if isinstance(bias, Tensor) else torch.get_default_dtype()))
    return h_NO if bias is None else h_NO - bias
