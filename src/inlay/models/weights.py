"""The only file that knows how a host stores its parameters: layout (Conv1D) and quantization.

A linear host is used as it is, quantized or not: running it needs only its forward, and so does reading it (the forward
of the identity matrix is the weight). The 4-bit layers of bitsandbytes are read by its own look-up instead, since a
layer computes ever after in the dtype of its first forward. Only merging writes, and only into plain floating-point
tensors. What accelerate has offloaded is on the meta device between calls; it is read where accelerate keeps it, and
brought to the device on which the host computes. What processes share out is gathered, by all of them together.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import AdapterStateError
from .sharded import is_sharded, whole
from .source import gives_several

if TYPE_CHECKING:
    from transformers.pytorch_utils import Conv1D

_BLOCK = 2**22  # numbers, of a weight that is cast up in parts
_SHADOWS = "_inlay_shadows"  # attribute of an offloaded host: what its parameters read as in the next call

Host = nn.Module


def is_linear(host: Host) -> bool:
    """Tell whether the host computes x W' + b; quantized linears of other libraries say so by in_features,
    out_features.
    """
    if isinstance(host, NonDynamicallyQuantizableLinear):
        return False  # nn.MultiheadAttention's: it reads the weights and never calls the layer, so no hook would run
    if isinstance(host, nn.Linear) or is_flipped(host):
        return True
    if not (
        isinstance(getattr(host, "in_features", None), int) and isinstance(getattr(host, "out_features", None), int)
    ):
        return False
    own = getattr(host, "weight", None)
    if isinstance(own, Tensor) and own.ndim == 3 and own.is_floating_point():
        return False  # a stack of experts: no one W
    return not gives_several(host)  # a layer that computes in integers, say, hands the scale on beside the result


def is_flipped(host: Host) -> "TypeGuard[Conv1D]":
    """Tell whether a linear host keeps its weight as (I, O)."""
    from transformers.pytorch_utils import Conv1D  # takes a second, and help is shown without a model

    return isinstance(host, Conv1D)


def size(host: Host) -> tuple[int, int]:
    """Return (O, I) of a linear host, read from its geometry because quantized weights are packed."""
    if is_flipped(host):
        return host.nf, host.nx
    linear: Any = host  # of any library
    return linear.out_features, linear.in_features


def is_packed(host: Host) -> bool:
    """Tell whether a linear host keeps its weight in another form than plain numbers."""
    own = getattr(host, "weight", None)
    return not isinstance(own, Tensor) or not _is_plain(host, own)


def device(host: Host) -> torch.device:
    """Find the device on which the host computes; the CPU if nothing in it has a tensor."""
    for module in host.modules():
        for tensor in chain(module._parameters.values(), module._buffers.values()):
            if tensor is not None:
                hook = _offloading(module) if tensor.is_meta else None
                return tensor.device if hook is None else torch.device(hook.execution_device)
    return torch.device("cpu")


def parameter_names(host: Host) -> set[str]:
    """List the parameters that the host has itself, without those that are None."""
    return {name for name, p in host._parameters.items() if p is not None}


def statistics(host: Host) -> tuple[str, ...]:
    """Return the names of the buffers that belong to the host's state, such as running averages; others are caches.

    What a packed linear host keeps in buffers is its weight.
    """
    if not host._buffers or (is_linear(host) and is_packed(host)):
        return ()
    return tuple(n for n, b in host._buffers.items() if b is not None and n not in host._non_persistent_buffers_set)


def own(host: Host, name: str) -> Tensor | None:
    """Find the host's parameter or buffer of this name, as it is kept; None if there is none. Its values: `value`."""
    found = host._parameters.get(name)
    return host._buffers.get(name) if found is None else found


def stored(host: Host) -> Tensor:
    """Return the host's weight as its module has it, in whatever form that is."""
    weight = host.weight
    assert isinstance(weight, Tensor)
    return weight


def value(host: Host, name: str) -> Tensor | None:
    """Read the host's own parameter or buffer, from where it is offloaded too; None if there is none of this name."""
    found = own(host, name)
    return None if found is None else _brought(host, name, found)


def bias(host: Host) -> Tensor | None:
    """Read the bias of a linear host, (O); None if it has none."""
    return _current(host, "bias")


def is_offloaded(host: Host) -> bool:
    """Tell whether accelerate keeps the host's parameters elsewhere between its calls."""
    return _offloading(host) is not None


def read(host: Host, names: Collection[str] = ("weight",)) -> dict[str, Tensor]:
    """Read the host's parameters, dense, the weight as (O, I) for linear hosts. Absent ones are left out."""
    params = {name: p for name in names if (p := _current(host, name)) is not None}
    if "weight" in names and is_linear(host):
        weight_OI = _dense(host)
        params["weight"] = _weight_by_forward(host) if weight_OI is None else weight_OI
    return params


@torch.no_grad()
def product(host: Host, x_NI: Tensor) -> Tensor:
    """Compute x W' of a linear host, without its bias, in float32 or finer unless only its forward can tell.

    A weight in 16 bits is cast up one block of rows after the other, so that there is never a whole copy.
    """
    weight_OI = _dense(host)
    if weight_OI is None:
        return _run(host, x_NI).to(x_NI.dtype)
    wide = torch.promote_types(weight_OI.dtype, x_NI.dtype)
    with torch.autocast(x_NI.device.type, enabled=False):
        return torch.cat([x_NI.to(wide) @ block_OI.to(wide).T for block_OI in blocks(weight_OI)], dim=1)


def blocks(weight_OI: Tensor) -> tuple[Tensor, ...]:
    """Split the weight (O, I) into blocks of rows small enough to be cast up."""
    return weight_OI.split(max(1, _BLOCK // weight_OI.shape[1]))


def shadow(host: Host, params: dict[str, Tensor]) -> None:
    """Make `host.weight` read as `params["weight"]` until unshadow, leaving host._parameters alone.

    Instance attributes win over nn.Module.__getattr__, so parameter names, optimizers and state dicts see no change.
    """
    if _offloading(host) is None:
        host.__dict__.update(params)
    elif _SHADOWS in host.__dict__:
        host.__dict__[_SHADOWS].update(params)
    else:  # accelerate's own forward, which reads host.weight before and after, must not see them
        host.__dict__[_SHADOWS] = dict(params)
        offloaded: Any = host
        offloaded._old_forward = partial(_forward_on_shadows, host, offloaded._old_forward)


def unshadow(host: Host, names: Iterable[str]) -> None:
    """Let the host's own parameters be seen again, whether `shadow` put others in their place or not."""
    for name in names:
        host.__dict__.pop(name, None)
    if host.__dict__.pop(_SHADOWS, None) is not None:
        offloaded: Any = host
        offloaded._old_forward = offloaded._old_forward.args[1]


def _forward_on_shadows(host: Host, forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    shadows = host.__dict__[_SHADOWS]
    host.__dict__.update(shadows)
    try:
        return forward(*args, **kwargs)
    finally:
        for name in shadows:
            del host.__dict__[name]


@torch.no_grad()
def write(host: Host, params: dict[str, Tensor]) -> None:
    """Copy dense `params`, the weight as (O, I) for linear hosts, into the host's own. Check with `writable` first."""
    for name, p in laid_out(host, params).items():
        target = own(host, name)
        assert target is not None
        target.copy_(p)


def laid_out(host: Host, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return dense `params`, the weight as (O, I) for linear hosts, as views in the layout that the host keeps them
    in.
    """
    return {name: p.T if is_flipped(host) and name == "weight" else p for name, p in params.items()}


def check_writable(host_name: str, host: Host, names: Iterable[str]) -> None:
    """Raise AdapterStateError if a parameter is absent or packed, so that it could not hold what `write` writes."""
    for name in names:
        target = own(host, name)
        if target is None:
            raise AdapterStateError(f"{host_name} has no {name} to merge into; use the adapter without merging it")
        if is_offloaded(host):
            raise AdapterStateError(
                f"{host_name}.{name} is offloaded, so that nothing can be merged into it; load the base where it fits "
                "(without device_map or cpu_offload) and merge there"
            )
        if is_sharded(target):
            raise AdapterStateError(
                f"{host_name}.{name} is sharded over processes, so that nothing can be merged into it; save the "
                "adapter, load it into the base in one process and merge there"
            )
        if name == "weight" and is_linear(host) and is_packed(host):
            raise AdapterStateError(
                f"{host_name}.weight is a {type(target).__name__} ({target.dtype}), which cannot hold a merged weight; "
                "load the base model in 16 or 32 bits and merge there"
            )


def scales(host: Host) -> Iterator[Tensor]:
    """Yield the tensors beside a quantized weight by which it is read."""
    state = getattr(host, "quant_state", None)
    while state is not None:
        yield from (value for value in vars(state).values() if isinstance(value, Tensor))
        state = state.state2


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
    """Read the weight as (O, I), if there is a way to it other than the host's forward; else None."""
    own = _current(host, "weight")
    if own is None:
        return None
    if _is_plain(host, own):
        return own.T if is_flipped(host) else own
    state = getattr(own, "quant_state", None) or getattr(host, "quant_state", None)  # a gathered weight has none
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
    """Return the dense (O, I) weight of a packed linear: its forward of the identity, without its bias."""
    return _run(host, torch.eye(size(host)[1], device=device(host))).T


def _run(host: Host, x_NI: Tensor) -> Tensor:
    """Run a packed linear without its bias, whose dtype is also that of the computation: (N, I) to (N, O)."""
    bias_O = bias(host)
    h_NO = host.forward(x_NI.to(torch.get_default_dtype() if bias_O is None else bias_O.dtype))
    return h_NO if bias_O is None else h_NO - bias_O


def _current(host: Host, name: str) -> Tensor | None:
    """Read what the host's forward would read under this name now; None if that is no tensor."""
    shadows = host.__dict__.get(_SHADOWS)
    if shadows and name in shadows:
        return shadows[name]
    found = getattr(host, name, None)
    return _brought(host, name, found) if isinstance(found, Tensor) else None


def _brought(host: Host, name: str, tensor: Tensor) -> Tensor:
    """Bring an offloaded tensor to where the host computes, and gather a sharded one; any other stays as it is."""
    if is_sharded(tensor):
        return whole(tensor)
    if not tensor.is_meta or (hook := _offloading(host)) is None:
        return tensor
    return hook.weights_map[name].to(hook.execution_device, tensor.dtype)


def _offloading(host: Host) -> Any:
    """Return the hook by which accelerate brings the host's parameters for each call, if there is one."""
    hook = host.__dict__.get("_hf_hook")
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False):
            return one
    return None
