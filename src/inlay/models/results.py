"""The hidden states in what a module returns."""

from typing import Any

from torch import Tensor

Result = Tensor | tuple[Any, ...] | list[Any]
"""What a module returns: hidden states, alone or first of several values, such as a block's."""


def first(result: Result) -> Tensor:
    """Find the hidden states of a module's result; transformer blocks may return them first in a tuple or list."""
    return result[0] if isinstance(result, tuple | list) else result


def with_first(result: Result, h: Tensor) -> Result:
    """Put `h` in the place of the result's hidden states."""
    if isinstance(result, list):
        return [h, *result[1:]]
    return (h, *result[1:]) if isinstance(result, tuple) else h
