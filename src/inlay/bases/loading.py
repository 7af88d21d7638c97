"""A base with its weights on a device, seeded, and quantized on the way if that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import set_seed
from torch import nn

from ..devices import make_current
from ..models.modules import parameter_count
from .arrival import Arrival, Take
from .base import Base
from .quantized import Packing
from .shares import Sharing
from .streaming import Streaming


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, where it computes."""

    model: nn.Module
    heads: tuple[str, ...]  # those that are new
    total_parameters: int


def load_onto(
    device: torch.device,
    load: Callable[[Take | None], tuple[nn.Module, tuple[str, ...]]],
    seed: int,
    packed_for: torch.dtype | None,
    streamed: Base | None = None,
    shard: bool = False,
) -> Loaded:
    """Load the model and its new heads, with every random number generator seeded, since a head is drawn while loading.

    Each parameter goes to the device as soon as `load` has read it and, if `packed_for` is a dtype, is quantized there
    to compute in that: there is never more than one of them beside what the model becomes. The layers of the blocks of
    a base that is `streamed` stay in its files. With `shard` the processes share out the base, which is frozen.
    Raises SettingsError if they cannot.
    """
    make_current(device)
    packing = None if packed_for is None else Packing(packed_for, device)
    streaming = None if streamed is None else Streaming(streamed, device)
    sharing = Sharing(device, packing) if shard else None
    take = partial(_moved, device) if device.type != "cpu" else None
    if sharing is not None:
        take = sharing.take
    elif packing is not None:
        take = packing.take
    elif streaming is not None:
        take = streaming.take
    set_seed(seed)
    model, heads = load(take)
    model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))  # what is new, and buffers
    total_parameters = parameter_count(model)
    if packing is not None:
        packing.finish(model, heads)
    if streaming is not None:
        streaming.finish()
    if sharing is not None:
        sharing.finish(model, heads)
    return Loaded(model, heads, total_parameters)


def _moved(device: torch.device, arrival: Arrival) -> nn.Parameter:
    p = arrival.parameter
    return arrival.replaced_by(nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad))
