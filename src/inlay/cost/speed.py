"""How fast this machine computes, measured in a second or two, from which the time of a step is told."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F

from .work import Work

_TRIALS = 5
_BYTES = 2**26  # more than a processor's cache holds


@dataclass(frozen=True)
class Speed:
    """A machine's speed, as one training on all its threads has them."""

    products: float  # multiplications and additions a second, in matrix products
    bytes: float  # that are read and written in a second
    operation: float  # seconds that an operation takes beside that

    def slower(self, factor: float) -> "Speed":
        return Speed(self.products / factor, self.bytes / factor, self.operation * factor)

    def seconds(self, work: Work) -> float:
        return work.products / self.products + work.moved / self.bytes + work.operations * self.operation


@cache
def measured_speed(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> Speed:
    """Measure the machine on the products of a layer of this width for a batch of so many tokens."""
    x_TD = torch.ones(tokens, width, device=device, dtype=dtype)
    weight_OD = torch.ones(2 * width, width, device=device, dtype=dtype)
    gradient_TO = torch.ones(tokens, 2 * width, device=device, dtype=dtype)
    forward = _seconds(lambda: F.linear(x_TD, weight_OD), device)
    backward = _seconds(lambda: gradient_TO @ weight_OD, device)
    products = 2 * tokens * width * 2 * width
    numbers = torch.ones(_BYTES // 4, device=device)
    passing = _seconds(lambda: numbers.mul_(1.0), device)
    small = torch.ones(16, 16, device=device, requires_grad=True)

    def chain() -> None:
        x = small
        for _ in range(100):
            x = x + 1
        x.sum().backward()

    return Speed(2 * products / (forward + backward), 2 * _BYTES / passing, _seconds(chain, device) / 300)


def _seconds(compute: Callable[[], object], device: torch.device) -> float:
    compute()
    times = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        compute()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)  # the others waited for something else
