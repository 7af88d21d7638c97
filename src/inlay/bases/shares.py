"""A base that several processes share out as they read it: of a block's weight each keeps its part, once it is read.

None of them ever has more than that, the weight that is being read, and what is outside of the blocks. What is to be
quantized is quantized first.
"""

import torch
from torch import Tensor, nn

from ..attached.adapter import Adapter
from ..errors import SettingsError
from ..models import mapped
from ..models.sharding import mesh_of, own_part, share_out, shared_blocks
from ..models.sites import Sites
from .arrival import Arrival
from .quantized import Packing


def check_shares(planned: Adapter, count: int | None) -> None:
    """Raise SettingsError if so many processes cannot share out the base of an adapter that is planned on the model
    without values; of a run that goes on the number is None, as one of them may go on alone."""
    if count == 1:
        raise SettingsError(
            "shard is on, which shares the base out among several processes, and there is one; start more with "
            "--processes or torchrun, or leave --shard out"
        )
    if not planned.removable:
        raise SettingsError(
            f"shard is on, and {planned.method.name} trains the base's own weights, which are whole on each process; "
            "leave --shard out, or choose a method that leaves the base as it is: lora with a high --method.rank comes "
            "nearest"
        )


class Sharing:
    """The parts of one base that this process keeps on `device`."""

    def __init__(self, device: torch.device, packing: Packing | None):
        self.device, self.packing, self.mesh = device, packing, mesh_of(device)
        self.inside: set[int] | None = None  # the modules of the blocks, known when the first parameter has arrived
        self.parts: dict[tuple[nn.Module, str], Tensor] = {}

    def take(self, arrival: Arrival) -> nn.Parameter:
        if self.inside is None:
            blocks = shared_blocks(Sites(arrival.model))
            tied = {name.rpartition(".")[0] for name in getattr(arrival.model, "all_tied_weights_keys", {})}
            inside = {name: m for name, block in blocks.items() for name, m in block.named_modules(prefix=name)}
            self.inside = {id(m) for name, m in inside.items() if name not in tied}
        layer, name, p = arrival.module, arrival.name, arrival.parameter
        is_matrix = id(layer) in self.inside and p.ndim > 1
        if self.packing is not None and (packed := self.packing.packed_of(arrival)) is not None:
            if is_matrix:
                packed._parameters["weight"] = self._kept(packed, "weight", packed._parameters["weight"])
            return arrival.without_values()
        return arrival.replaced_by(self._kept(layer, name, p)) if is_matrix else p

    def finish(self, model: nn.Module, heads: tuple[str, ...]) -> None:
        """Share out what is left, and put the parts in their places."""
        share_out(Sites(model, heads), self.mesh, self.parts)
        self.parts = {}

    def _kept(self, module: nn.Module, name: str, p: nn.Parameter | None) -> nn.Parameter:
        """Keep this process's part of a parameter; returns one without values, which keeps the place."""
        assert p is not None
        self.parts[module, name] = own_part(p.detach(), self.mesh).to(self.device, copy=True)
        if mapped.is_mapped(p):
            mapped.let_go(p)
        return nn.Parameter(p.detach().to("meta"), requires_grad=False)
