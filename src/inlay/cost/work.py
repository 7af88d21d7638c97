"""Operations, as time is told from: how many of each kind there are, and how much they compute and move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

VIEWS = "views"
"""The kind of all operations that compute nothing."""


class Amount(NamedTuple):
    """What the operations of a kind do."""

    operations: float = 0.0
    products: float = 0.0  # multiplications and additions in matrix products
    moved: float = 0.0  # bytes that are read and written
    made: float = 0.0  # bytes of results that have memory of their own

    def plus(self, other: "Amount", times: float = 1.0) -> "Amount":
        return Amount(*(a + times * b for a, b in zip(self, other, strict=True)))


_NOTHING = Amount()


@dataclass(frozen=True)
class Work:
    """What is computed, by kind of operation: its name and the type of its results."""

    amounts: Mapping[str, Amount] = field(default_factory=dict)

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        kinds = dict.fromkeys((*self.amounts, *other.amounts))
        own, others = self.amounts, other.amounts
        return Work({kind: own.get(kind, _NOTHING).plus(others.get(kind, _NOTHING), times) for kind in kinds})

    @property
    def products(self) -> float:
        return sum(amount.products for amount in self.amounts.values())

    def of_tokens(self, share: float) -> "Work":
        """Return the work for this share of the tokens, in as many operations."""
        return Work(
            {
                kind: Amount(n, share * products, share * moved, share * made)
                for kind, (n, products, moved, made) in self.amounts.items()
            }
        )


class Done(NamedTuple):
    """What an operation does."""

    kind: str
    amount: Amount
    kernel: object = None  # by which matrix products of 16 bits differ


_VIEW = Done(VIEWS, Amount(1))


def done_by(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object], result: object) -> Done | None:
    """Return what an operation does; None of one that touches no tensor."""
    if func.is_view:
        return _VIEW
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    touched = [*results, *given]
    if not touched or func.namespace == "prim":
        return None
    count, products = _COUNTS.get(func._overloadpacket), 0
    if count is not None:
        products = count(*args, **kwargs, out_val=result)
    made = 0 if func._schema.is_mutable else _bytes(results)
    kind = f"{func._overloadpacket} {str(touched[0].dtype).removeprefix('torch.')}"
    kernel = None
    if products and isinstance(result, Tensor) and result.element_size() == 2:
        kernel = func, *(leaf.shape for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    return Done(kind, Amount(1, products, _bytes(touched), made), kernel)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: object, out_val: object, **kwargs: object) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: object, out_val: object, **kwargs: object
) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


_COUNTS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # which PyTorch does not count
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
