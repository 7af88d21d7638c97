"""A base with its weights on a device, seeded, and quantized if that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from torch import nn

from ..devices import make_current
from .quantized import quantize


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, where it computes."""

    model: nn.Module
    heads: tuple[str, ...]  # those that are new
    total_parameters: int


def load_onto(
    device: torch.device,
    load: Callable[[], tuple[nn.Module, tuple[str, ...]]],
    seed: int,
    packed_for: torch.dtype | None,
) -> Loaded:
    """Load the model and its new heads, with every random number generator seeded, since a head is drawn while loading.

    The model is put on the device and, if `packed_for` is a dtype, quantized to compute in that.
    """
    make_current(device)
    set_seed(seed)
    model, heads = load()
    model.to(device)
    total_parameters = sum(p.numel() for p in model.parameters())
    if packed_for is not None:
        quantize(model, packed_for, heads=heads)
    return Loaded(model, heads, total_parameters)
