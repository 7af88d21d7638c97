"""A frozen base that several processes share out: each keeps a part of every weight, and all gather those of a block
for its call (PyTorch's FSDP2).

An adapter is not shared out. It is attached to the shared base, so that what it trains, its gradients and the
optimizer's averages are whole on each process, and plain tensors. Whatever gathers, such as a call of the model or
reading a host's weight, is work for all processes together: each must do it, and equally often.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .. import processes
from ..errors import DoesNotFit
from . import weights
from .heads import input_embeddings, output_embeddings
from .modules import base_modules
from .sharded import is_sharded, remember_parts
from .sites import Sites

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

_SHARES = "_inlay_shares"  # attribute of a model that is shared out


@dataclass(frozen=True)
class _Unit:
    """A module whose weights are gathered together: a block, the embedding, the head, or the model with what is left.

    FSDP2 gives a module another class, which has methods to gather and to part, and no other use. Here it is the
    module's for as long as these are called: whoever asks what a module is gets the answer that is true of any base.
    """

    module: nn.Module
    kind: type
    is_block: bool

    def gather(self) -> None:
        with self._as_fsdp() as module:
            module.unshard()

    def part(self) -> None:
        with self._as_fsdp() as module:
            module.reshard()

    @contextmanager
    def _as_fsdp(self) -> "Iterator[FSDPModule]":
        module: Any = self.module
        own = type(module)
        module.__class__ = self.kind
        try:
            yield module
        finally:
            module.__class__ = own


@dataclass
class SharedUnits:
    """What is remembered of a model that is shared out."""

    units: list["_Unit"]
    takes_adapters: bool = field(default=False, init=False)


def mesh_of(device: torch.device) -> DeviceMesh:
    """Return the processes that share out the weights: all, or those of each machine, whose parts are then the same as
    on any other."""
    count = processes.count()
    local, *others = set(processes.gathered(processes.local_count()))
    if 1 < local < count and not others:
        return init_device_mesh(device.type, (count // local, local), mesh_dim_names=("machines", "processes"))
    return init_device_mesh(device.type, (count,), mesh_dim_names=("processes",))


def own_part(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return the rows of a whole weight that this process keeps: none, if there are too few of them."""
    each = -(-len(tensor) // mesh.size(mesh.ndim - 1))
    return tensor[each * mesh.get_local_rank(mesh.ndim - 1) :][:each]


def shared_blocks(sites: Sites) -> dict[str, nn.Module]:
    """Return the blocks that can be gathered alone, by name: nothing else has a weight of theirs."""
    alone = _Owners(sites.model)
    return {name: block for name, block in sites.blocks.items() if alone.is_alone(block)}


def _units(sites: Sites) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules whose weights are gathered alone: the blocks, and the embedding and the head, if these do not
    share a weight."""
    model, alone = sites.model, _Owners(sites.model)
    blocks = list(shared_blocks(sites).values())
    inside = {id(m) for block in blocks for m in block.modules()}
    named = {id(m): m for m in (input_embeddings(model), output_embeddings(model)) if m is not None}
    reachable = {id(m) for name, m in sites.modules() if name not in sites.bypassed} - inside
    return blocks, [m for m in named.values() if id(m) in reachable and alone.is_alone(m)]


def share_out(sites: Sites, mesh: DeviceMesh, parts: dict[tuple[nn.Module, str], Tensor]) -> None:
    """Keep on each process its part of every weight of the model, which is frozen, and gather the others for a call.

    `parts` are those of weights that are on the meta device, by module and name there.
    """
    from torch.distributed.fsdp import fully_shard  # takes a second, and few bases are shared out

    model = sites.model
    model.requires_grad_(False)
    blocks, others = _units(sites)
    for p in model.parameters():
        p.data = p.data.contiguous()
    scalars = {p for p in model.parameters() if p.ndim == 0}
    units = []
    for module in (*blocks, *others, model):
        own = type(module)
        fully_shard(module, mesh=mesh, ignored_params=scalars)
        units.append(_Unit(module, type(module), any(module is block for block in blocks)))
        module.__class__ = own
    for (module, name), part in parts.items():
        _put(module, name, part)
    fully_shard.state(model)._lazy_init()  # pyright: ignore  # else the first part of it that is called were the root
    for unit in units:  # the first time decides what gathered tensors are, and may not come in inference mode
        unit.gather()
        unit.part()
    model.__dict__[_SHARES] = SharedUnits(units)
    for module in model.modules():
        remember_parts(module)


def has_shares(model: nn.Module) -> bool:
    """Tell whether processes have shared out the model by `share_out`."""
    return _SHARES in model.__dict__


def check_recovers(model: nn.Module, why: str) -> None:
    """Raise DoesNotFit if a pass that ran out of memory cannot be done again, as others wait for its part of the
    weights."""
    if has_shares(model):
        raise DoesNotFit(
            f"{why}. As the base is shared out, the step cannot be done again: begin anew with a smaller "
            "--micro-batch-size, or --recompute all"
        )


def takes_adapters(model: nn.Module) -> bool:
    """Tell whether an adapter can be attached to the model, though its weights are shared out."""
    shares = model.__dict__.get(_SHARES)
    return isinstance(shares, SharedUnits) and shares.takes_adapters


@contextmanager
def attaching(model: nn.Module) -> Iterator[None]:
    """Let adapters be attached in the block to a model that is shared out, if it is; nothing else is to run there.

    What is outside of its blocks is whole meanwhile, as a method may run a part of the model. In the end weights are
    let go after what adapters do at a call, which may read them.
    """
    shares = model.__dict__.get(_SHARES)
    if not isinstance(shares, SharedUnits):
        yield
        return
    from torch.distributed.fsdp import fully_shard

    outer = [unit for unit in shares.units if not unit.is_block]
    for unit in outer:
        unit.gather()
    shares.takes_adapters = True
    try:
        yield
    finally:
        shares.takes_adapters = False
        for unit in outer:
            unit.part()
        for unit in shares.units:
            handle = fully_shard.state(unit.module)._post_forward_hook_handle  # pyright: ignore
            unit.module._forward_hooks.move_to_end(handle.id)  # pyright: ignore  # an OrderedDict


def planned_bytes(sites: Sites, count: int) -> tuple[int, int]:
    """Return the bytes of a base, which may be without values, that each of `count` processes would hold between two
    calls, and at most.

    Beside its parts it then has gathered the two largest of the blocks, embedding and head, since the next is
    gathered early, and what is left in the model.
    """
    blocks, others = _units(sites)
    gathered = sorted(map(_bytes, (*blocks, *others)), reverse=True)
    whole, in_units = _bytes(sites.model), sum(gathered)
    held = -(-whole // count)
    return held, held + (whole - in_units) + sum(gathered[:2])


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of the base that this process holds between two calls, without what adapters have."""
    modules = [m for _, m in base_modules(model)]
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values(), *weights.scales(m))]
    local = {id(t): t._local_tensor if is_sharded(t) else t for t in tensors if t is not None}
    return sum(t.numel() * t.element_size() for t in local.values())


def _put(module: nn.Module, name: str, part: Tensor) -> None:
    from torch.distributed.tensor import DTensor

    shared = module._parameters[name]
    assert isinstance(shared, DTensor)
    whole = DTensor.from_local(
        part, shared.device_mesh, shared.placements, run_check=False, shape=shared.shape, stride=shared.stride()
    )
    module.load_state_dict({name: nn.Parameter(whole, requires_grad=False)}, strict=False, assign=True)


class _Owners:
    """Which modules of a model have each of its parameters."""

    def __init__(self, model: nn.Module):
        self.by_parameter: dict[int, set[int]] = defaultdict(set)
        for module in model.modules():
            for p in module._parameters.values():
                self.by_parameter[id(p)].add(id(module))

    def is_alone(self, module: nn.Module) -> bool:
        """Tell whether nothing outside of the module has a parameter of it."""
        inside = {id(m) for m in module.modules()}
        return all(self.by_parameter[id(p)] <= inside for p in module.parameters())
