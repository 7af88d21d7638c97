"""A limit on what an adapter may take while it is built from settings that are somebody else's."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError
from .peft_config import CONFIG

_AT_LEAST = 2**24  # numbers that any adapter may have, such as frozen projections that are in no file
_TIMES = 4  # the numbers in the file: a start is kept beside what has been trained

_OF_SIZE = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full, torch.eye}
_OF_SIZE |= {torch.triu_indices, torch.tril_indices, torch.arange, torch.randperm}
_AFTER_SELF = {Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full, Tensor.expand, Tensor.repeat}


class Bounded(TorchFunctionMode):
    """Raises CheckpointError before more numbers are made than an adapter with these tensors can need."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        self.stored = sum(t.numel() for t in tensors.values())
        self.most, self.made = _AT_LEAST + _TIMES * self.stored, 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in _OF_SIZE or func in _AFTER_SELF:
            self.made += _numbers(args[1:] if func in _AFTER_SELF else args, kwargs)
            if self.made > self.most:
                raise CheckpointError(
                    f"{CONFIG}: with these settings the adapter has more than {self.most} numbers, and the file has "
                    f"{self.stored}; the two do not belong together, copy both again"
                )
        return func(*args, **kwargs)


def _numbers(args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    sizes = args[0] if args and isinstance(args[0], list | tuple) else kwargs.get("size", args)
    sizes = sizes if isinstance(sizes, Iterable) else (sizes,)
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)
