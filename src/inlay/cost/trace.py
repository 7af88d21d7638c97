"""One look at a step: the storages that live in it, and the operations that it is made of."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .storages import Storages
from .work import Work


class Trace(TorchDispatchMode):
    """Follows what PyTorch computes in its block, with values or without: bytes that live, products, bytes moved."""

    def __init__(self, block: int = 1):
        super().__init__()
        self.storages = Storages(block)
        self.work = Work()
        self.times = 1  # how often what is seen once is done

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self.storages.see(tensor)
        if made and not func.is_view and func.namespace != "prim":
            count, products, moved = flop_registry.get(func._overloadpacket), 0, 0
            if count is not None:
                products = count(*args, **(kwargs or {}), out_val=result)
            else:
                read = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
                moved = sum(t.numel() * t.element_size() for t in (*made, *read))
            self.work = self.work.plus(Work(products, moved, 1), self.times)
        return result
