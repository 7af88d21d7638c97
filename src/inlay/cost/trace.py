"""One look at a step: the storages that live in it, and the operations that it is made of."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .storages import Storages
from .work import Amount, Work, work_of

_DEVICE = torch.ops.prim.device.default


class Trace(TorchDispatchMode):
    """Follows what PyTorch computes in its block, with values or without: bytes that live, and the work."""

    def __init__(self, block: int = 1):
        super().__init__()
        self.storages = Storages(block)
        self.times = 1  # how often what is seen once is done
        self.kernels = set[object]()  # the matrix products of 16 bits that differ, as some libraries keep one for each
        self._amounts: dict[str, Amount] = {}

    @property
    def work(self) -> Work:
        """What has been done so far."""
        return Work(dict(self._amounts))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and each call would be wrapped so that nothing is

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if func is _DEVICE and isinstance(args[0], FakeTensor) and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device  # as it would, in a tenth of the time; two of three calls are of this kind
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.storages.see(leaf)
        if (found := work_of(func, args, kwargs, result)) is not None:
            kind, amount = found
            self._amounts[kind] = self._amounts.get(kind, Amount()).plus(amount, self.times)
            if amount.products and isinstance(result, Tensor) and result.element_size() == 2:
                self.kernels.add((func, *(leaf.shape for leaf in tree_leaves(args) if isinstance(leaf, Tensor))))
        return result
