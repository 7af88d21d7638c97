"""A model with an adapter that has shapes and no values: on the meta device, then as fake tensors of a device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..attached.adapter import Adapter, plan_attach
from ..bases.quantized import quantize
from ..bases.streaming import streamed
from ..core.method import Method
from ..core.state import commit, state_of
from ..models import weights
from ..models.sites import Sites

_SCALES = 256  # that have a scale in common


def empty_adapter(
    empty: Callable[[], nn.Module], method: Method, dtype: torch.dtype, *, part: str | None, packed: bool
) -> Adapter:
    """Attach the method to a model on the meta device, of this dtype; `packed` quantizes its layers to 4 bits."""
    model = empty()
    for p in model.parameters():
        p.data = p.data.to(dtype)
    if packed:
        quantize(model, dtype)
    adapter = plan_attach(model, method, part=part)
    commit(adapter)
    if (watch := state_of(model).watch) is not None:
        watch.close()  # what it looks for in a first pass are values
    return adapter


def give_storage(model: nn.Module) -> None:
    """Put tensors of the CPU in the place of those on meta; within FakeTensorMode they take no memory.

    One that is shared stays one.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, whose address must not be used again

    def new(old: Any) -> Any:
        if id(old) not in made:
            fresh: Any = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
            if isinstance(old, nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=old.requires_grad)
            if (state := getattr(old, "quant_state", None)) is not None:
                _give_storage_to(state)
                fresh.quant_state = state  # which bitsandbytes looks for
            made[id(old)] = fresh, old
        return made[id(old)][0]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = new(tensor)


def _give_storage_to(state: Any) -> None:
    """Do so for what a quantized weight is read with, whose scales are quantized in turn, as those with values are."""
    scales = state.absmax.numel()
    state.absmax = torch.empty(scales, dtype=torch.uint8, device="cpu")
    state.code, state.offset = torch.empty(16, device="cpu"), torch.empty((), device="cpu")
    state.state2 = type(state)(
        absmax=torch.empty(-(-scales // _SCALES), device="cpu"),
        code=torch.empty(256, device="cpu"),
        blocksize=_SCALES,
        dtype=torch.float32,
    )
    state.nested = True


def scales_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors beside the quantized weights by which these are read."""
    for module in model.modules():
        yield from weights.scales(module)


def share_storage(model: nn.Module) -> None:
    """Let the layers that a streamed base reads have one weight for all blocks, as those of one are there at a time."""
    sites = Sites(model)
    blocks, shared = streamed(sites), dict[tuple[str, torch.Size], nn.Parameter | None]()
    for name, layer in sites.modules():
        if (block := blocks.get(id(layer))) is not None:
            key = name.removeprefix(block), weights.stored(layer).shape
            layer._parameters["weight"] = shared.setdefault(key, layer._parameters["weight"])
