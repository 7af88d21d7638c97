"""Tensors that several processes share out among them (FSDP2): whole again for a while, or shared out anew.

Whatever makes a tensor whole is work for all of these processes together: each of them must call it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed, nn

from ..errors import AdapterStateError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


_PARTS = "_inlay_parts"  # attribute of a module of a base that is shared out


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")


def reading(model: nn.Module) -> "torch.no_grad | torch.inference_mode":
    """Return the context of forward passes without a backward one.

    FSDP2 keeps the tensors that it gathers weights into and fills them again in training, which those that were made in
    inference mode refuse.
    """
    return torch.no_grad() if any(map(is_sharded, model.parameters())) else torch.inference_mode()


def is_shared_out(tensor: Tensor) -> bool:
    """Tell whether several processes have a part of the tensor each, by FSDP2 or DeepSpeed (ZeRO-3)."""
    return is_sharded(tensor) or hasattr(tensor, "ds_id")


def check_takes_adapters(model: nn.Module) -> None:
    """Raise AdapterStateError if an engine has divided the model's weights over processes already."""
    kind, instead = type(model).__name__, "attach adapters to a whole model, and shard it with them afterwards"
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        raise AdapterStateError(
            f"{kind} is partitioned by DeepSpeed (ZeRO-3), whose weights are empty but in its own calls, where an "
            f"adapter does not look; use ZeRO-2, or FSDP2: {instead} (fully_shard), as inlay train --shard does"
        )
    if not any(map(is_sharded, model.parameters())):
        from torch.distributed.fsdp import FullyShardedDataParallel  # takes a second, and help is shown without a model

        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            raise AdapterStateError(
                f"{kind} is in FSDP1, whose weights have no shape of their own; use FSDP2: {instead}"
            )
        return
    if _is_tensor_parallel(model):
        raise AdapterStateError(
            f"{kind} is divided by tensor parallelism (tp_plan, parallelize_module), so that a layer's results are "
            f"parts, which no adapter fits; load it without, and use FSDP2: {instead} (fully_shard), as inlay train "
            "--shard does"
        )
    raise AdapterStateError(
        f"{kind} is sharded over processes already; attach or load adapters first, and shard the model with them "
        "afterwards (fully_shard), so that they are trained alike everywhere"
    )


def _is_tensor_parallel(model: nn.Module) -> bool:
    """Tell whether weights are divided that FSDP2 does not gather for a call, or divided twice."""
    from torch.distributed.fsdp import fully_shard

    gathered = tuple(
        f"{name}." if name else ""
        for name, m in model.named_modules()
        if fully_shard.state(m) is not None  # pyright: ignore
    )
    return any(
        not name.startswith(gathered) or sum(placement.is_shard() for placement in p.placements) > 1
        for name, p in model.named_parameters()
        if is_sharded(p)
    )


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor with all of its values. Raises AdapterStateError if DeepSpeed keeps them elsewhere (ZeRO-3)."""
    if is_sharded(tensor):
        own = tensor.detach()
        assert is_sharded(own)
        return own.full_tensor()
    if hasattr(tensor, "ds_id") and tensor.numel() == 0:
        raise AdapterStateError(
            "a tensor of the adapter is empty here, as DeepSpeed spreads it over processes; gather the adapter's "
            "parameters first: with deepspeed.zero.GatheredParameters(list(adapter.parameters()))"
        )
    return tensor


def fill(own: Tensor, values: Tensor) -> None:
    """Copy whole or sharded values into a tensor, of which this process may have a part."""
    if is_sharded(own) and not is_sharded(values):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values.to(own.device), own.device_mesh, own.placements)
    own.copy_(values)


def remember_parts(module: nn.Module) -> None:
    """Let `lasting` know the module's parameters, which are parts now and gathered for a call."""
    module.__dict__[_PARTS] = {name: p for name, p in module._parameters.items() if p is not None}


def lasting(module: nn.Module) -> Mapping[str, Tensor] | None:
    """Return what stands for parameters of a module as long as they have their values, by name, if that is not what is
    read: a gathered tensor is filled again for each call, and does not tell. None if nobody can tell, as others have
    shared them out.
    """
    if (parts := module.__dict__.get(_PARTS)) is not None:
        return parts
    return None if getattr(module, "_is_fsdp_managed_module", False) else {}


@contextmanager
def made_whole(modules: Iterable[nn.Module]) -> Iterator[bool]:
    """Give the modules and all in them whole tensors until the block is done, which all processes leave together.

    Tells whether this is the process that writes files: each one, if it shares nothing with others. Raises
    AdapterStateError if values are not to be had.
    """
    before: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter]] = []
    try:
        for module in {id(m): m for top in modules for m in top.modules()}.values():
            module.state_dict()  # for which FSDP2 parts what a forward pass has left whole, and so not in the midst
            for name, p in module._parameters.items():
                if p is not None and (full := whole(p)) is not p:
                    before.append((module._parameters, name, p))
                    module._parameters[name] = nn.Parameter(full, requires_grad=p.requires_grad)
        yield not before or distributed.get_rank() == 0
        if before:
            distributed.barrier()
    finally:
        for tensors, name, tensor in before:
            tensors[name] = tensor
