"""One look at a step: the storages that live in it, and the operations that it is made of."""

from torch import Tensor
from torch.utils._pytree import tree_leaves

from .known_results import KnownResults
from .storages import Storages
from .work import Amount, Done, Work


class Trace(KnownResults):
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

    def saw(self, result: object, done: Done | None) -> None:
        for leaf in [result] if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.storages.see(leaf)
        if done is not None:
            self._amounts[done.kind] = self._amounts.get(done.kind, Amount()).plus(done.amount, self.times)
            if done.kernel is not None:
                self.kernels.add(done.kernel)
