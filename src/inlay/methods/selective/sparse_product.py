"""x S' for a sparse S given by its entries, as an operator of PyTorch's, which autograd and torch.compile both know.

S is made dense for the product itself, where that is fastest, and again in the backward pass.

Shape suffixes: K entries, N tokens, O outputs, I inputs.
"""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("inlay::sparse_product", mutates_args=())
def product(x_NI: Tensor, values_K: Tensor, indices: Tensor, outputs: int) -> Tensor:
    """Compute x S'. Its backward pass keeps the entries of S and not the dense matrix, which is as large as the
    weight.
    """
    return x_NI @ _dense(values_K, indices, outputs, x_NI.shape[1]).T


@product.register_fake
def _(x_NI: Tensor, values_K: Tensor, indices: Tensor, outputs: int) -> Tensor:
    return x_NI.new_empty(len(x_NI), outputs)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    *tensors, ctx.outputs = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
    x_NI, values_K, indices = ctx.saved_tensors
    dx_NI = dy_NO @ _dense(values_K, indices, ctx.outputs, x_NI.shape[1]) if ctx.needs_input_grad[0] else None
    dvalues_K = (dy_NO.T @ x_NI)[tuple(indices)] if ctx.needs_input_grad[1] else None
    return dx_NI, dvalues_K, None, None


product.register_autograd(_backward, setup_context=_remember)


def _dense(values_K: Tensor, indices: Tensor, outputs: int, inputs: int) -> Tensor:
    return values_K.new_zeros(outputs, inputs).index_put_(tuple(indices), values_K, accumulate=True)
