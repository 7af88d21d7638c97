"""Which parameters of a module are stacks of expert matrices: (E, O, I), or (E, I, O) if they are flipped.

Mixtures keep all experts of a layer in one tensor for each projection, at the module that runs them. What says so is
the structure: the module counts its experts and the first dimension is that number, or two of its tensors follow each
other as a feed-forward's projections do. A convolution's weight has three dimensions too and is none.

Shapes: E experts, O outputs, I inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from . import weights
from .weights import Host

_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Stack:
    """One parameter's matrices."""

    experts: int | None
    """None for a single matrix (O, I), such as a router's."""
    out_features: int
    in_features: int
    flipped: bool = False
    """Whether each matrix is kept as (I, O)."""


def expert_weights(module: Host) -> dict[str, Stack]:
    """Return the module's own stacks of expert matrices by the parameter's name, in the order of the module."""
    if not any(p is not None and p.ndim > 2 for p in module._parameters.values()):
        return {}  # nearly all modules, and fast
    own = {name: p for name, p in _of_three_dimensions(module) if p.dtype in _PLAIN}
    if not own:
        return {}
    flipped = _is_flipped(module, list(own.values()))
    return {name: _stack(p, flipped) for name, p in own.items()}


def matrices(module: Host) -> dict[str, Stack]:
    """Return what of the module's own parameters a low-rank change can be made of: its stacks of expert matrices, or
    else the one matrix with a row for each expert that a router keeps which is no linear layer.
    """
    if stacks := expert_weights(module):
        return stacks
    if weights.is_linear(module) or isinstance(module, nn.Embedding):
        return {}
    own = {n: p for n, p in module._parameters.items() if p is not None and p.ndim == 2 and p.dtype in _PLAIN}
    counts = _counts(module) if own else frozenset()
    return {n: Stack(None, len(p), p.shape[1]) for n, p in own.items() if len(p) in counts}


def packed(module: Host) -> dict[str, torch.dtype]:
    """Return the module's own stacks of expert matrices that are quantized, each with its dtype."""
    return {name: p.dtype for name, p in _of_three_dimensions(module) if p.dtype not in _PLAIN}


def _of_three_dimensions(module: Host) -> Iterator[tuple[str, Tensor]]:
    """Yield what has the form of a stack, quantized or not."""
    own = {n: p for n, p in module._parameters.items() if p is not None and p.ndim >= 3 and min(p.shape[1:3]) > 1}
    if not own or isinstance(module, _ConvNd) or weights.is_linear(module):
        return
    counts = _counts(module)
    counts = counts or ({len(p) for p in own.values()} if _follow_each_other(list(own.values())) else frozenset())
    yield from ((n, p) for n, p in own.items() if len(p) in counts and (p.ndim == 3 or p.dtype not in _PLAIN))


def _counts(module: Host) -> frozenset[int]:
    """Return the numbers of experts that the module says it has: routed ones, shared ones, all of them."""
    return frozenset(v for k, v in vars(module).items() if "expert" in k and type(v) is int and v > 0)


def _follow_each_other(own: list[Tensor]) -> bool:
    """Tell whether two of the tensors can be the projections of as many feed-forwards."""
    shapes = [tuple(p.shape) for p in own if p.ndim == 3 and len(p) > 1]
    return any(
        e == f and b != a and c == b and a in (d, 2 * d) or e == f and a != b and a == d and b == 2 * c
        for n, (e, a, b) in enumerate(shapes)
        for f, c, d in shapes[:n] + shapes[n + 1 :]
    )


def _is_flipped(module: Host, own: list[Tensor]) -> bool:
    """Tell whether the matrices are (I, O).

    The module may say so. Else two projections of which the first gives gate and value at once tell it, as one of their
    dimensions is twice the other's; else the width that the module says its input has. What remains, a single square
    matrix for instance, counts as (O, I), as torch has it: then the factors may change places, which alters their
    start and nothing that they can compute.
    """
    if isinstance(stated := getattr(module, "is_transposed", None), bool):
        return stated
    matrices = [(p.shape[1], p.shape[2]) for p in own]
    for rows, columns in matrices:
        for rows_2, columns_2 in matrices:
            if rows == 2 * columns_2 and columns == rows_2:
                return False
            if columns == 2 * rows_2 and rows == columns_2:
                return True
    rows, columns = matrices[0]
    widths = (getattr(module, name, None) for name in ("input_size", "hidden_size", "hidden_dim"))
    width = next((w for w in widths if isinstance(w, int)), None)
    return rows == width != columns


def _stack(p: Tensor, flipped: bool) -> Stack:
    experts, rows, columns = p.shape
    return Stack(experts, columns, rows, True) if flipped else Stack(experts, rows, columns)
