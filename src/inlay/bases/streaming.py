"""A base larger than memory: the linear layers of its blocks stay in its files, and are read for each call anew.

Accelerate's hooks bring a layer's weight for its call and drop it afterwards, so a method finds it where it finds that
of any offloaded base. A block is computed a second time in the backward pass, with its weights read again; otherwise
the graph would hold those of all blocks. What a file has is mapped: on a CPU, in the dtype of the files, there is not
even a copy.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn

from ..attached.adapter import Adapter
from ..errors import SettingsError
from ..formats.base_files import stored_tensors, stored_value
from ..models import mapped
from ..models.recompute import Recomputing
from ..models.sites import Sites
from .arrival import Arrival
from .base import Base
from .quantized import unshared_linears


class Streaming:
    """The layers of one base that stay in its files, to compute on `device`."""

    def __init__(self, base: Base, device: torch.device):
        self.base, self.device = base, device
        self.blocks: dict[int, str] = {}  # by layer
        self.layers: list[tuple[nn.Module, str, Tensor]] = []  # each with its block and its weight in the files
        self.sites: Sites | None = None
        self.turn = _Turn()

    def take(self, arrival: Arrival) -> nn.Parameter:
        if self.sites is None:
            self.sites = Sites(arrival.model)
            self.blocks = streamed(self.sites)
        layer, p = arrival.module, arrival.parameter
        if arrival.name != "weight" or (block := self.blocks.get(id(layer))) is None:
            return p
        source = p.detach() if mapped.is_mapped(p) else self._stored(arrival)
        if mapped.is_mapped(source):
            mapped.let_go(source)
        self.layers.append((layer, block, source))
        return arrival.without_values()

    @cached_property
    def files(self) -> dict[str, Tensor]:
        """What the files hold, by its name there."""
        assert self.base.folder is not None  # since they are being read
        return stored_tensors(self.base.folder)

    def _stored(self, arrival: Arrival) -> Tensor:
        """Find the weight in the files, which the model has in another dtype. Raises SettingsError if it is not there
        with the same values.
        """
        assert self.sites is not None
        p = arrival.parameter.detach()
        found = stored_value(self.files, self.sites, arrival.module_name, arrival.name, p)
        if found is None or not torch.equal(found.to(p.dtype), p):
            raise SettingsError(
                f"stream is on, and {arrival.key} of {type(arrival.model).__name__} is not in the safetensors files of "
                f"{self.base.name} as the model has it; save the model anew (model.save_pretrained) and name that "
                "folder, or leave --stream out"
            )
        return found

    def finish(self) -> None:
        """Have each layer's weight brought for its calls, and each block computed again in the backward pass."""
        assert self.sites is not None
        for layer, block, weight in self.layers:
            own = {name: p.detach() for name, p in layer._parameters.items() if p is not None}
            weights = _Weights(self.turn, block, own | {"weight": weight})
            add_hook_to_module(layer, AlignDevicesHook(self.device, offload=True, weights_map=weights))
        blocks = dict.fromkeys(block for _, block, _ in self.layers)
        Recomputing([self.sites.module(block) for block in blocks], to_the_end=True)


def streamed(sites: Sites) -> dict[int, str]:
    """Find the layers that can stay in the files, by their ids, each with its block. Raises SettingsError for none."""
    linears = {id(layer) for layer in unshared_linears(sites)}
    found: dict[int, str] = {}
    for block, module in sites.blocks.items():
        found |= {id(m): block for m in module.modules() if id(m) in linears}
    if not found:
        raise SettingsError(
            f"stream is on, and {type(sites.model).__name__} has no blocks of linear layers to read one after the "
            "other; leave --stream out"
        )
    return found


def check_streams(planned: Adapter) -> None:
    """Raise SettingsError if an adapter that is planned on the model without values lets nothing stay in the files."""
    if not planned.removable:
        raise SettingsError(
            f"stream is on, and {planned.method.name} trains the base's own weights, which stay in its files; choose "
            "another method, or leave --stream out"
        )
    streamed(Sites(planned.model, planned.heads))


def check_files(path: str) -> None:
    """Raise SettingsError if a base's folder has no files that can be read from."""
    if os.path.isdir(path) and not any(Path(path).glob("*.safetensors")):
        raise SettingsError(
            f"stream is on, and {path} has no safetensors files to read from; save the model anew "
            "(model.save_pretrained) and name that folder, or leave --stream out"
        )


class _Turn:
    """Which block's weights are in memory: one block's at a time."""

    def __init__(self) -> None:
        self.block: str | None = None
        self.read: dict[int, Tensor] = {}

    def of(self, block: str, weight: Tensor) -> None:
        if block != self.block:
            for each in self.read.values():
                mapped.let_go(each)
            self.block, self.read = block, {}
        self.read[id(weight)] = weight


class _Weights(Mapping[str, Tensor]):
    """The parameters of one layer by name, its weight read from the file anew each time."""

    def __init__(self, turn: _Turn, block: str, own: dict[str, Tensor]):
        self.turn, self.block, self.own = turn, block, own
        self.is_mapped = mapped.is_mapped(own["weight"])

    def __getitem__(self, name: str) -> Tensor:
        if name == "weight" and self.is_mapped:
            self.turn.of(self.block, self.own[name])
        return self.own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)
