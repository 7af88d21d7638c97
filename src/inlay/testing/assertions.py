"""What a check of the contract requires, said without pytest, which a user of Inlay need not have."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def raises(error: type[Exception], match: str = "") -> Iterator[None]:
    """Require that the block raises `error` with a message in which `match` is found."""
    try:
        yield
    except error as problem:
        if not re.search(match, str(problem)):
            raise AssertionError(f"{problem!r} has no {match!r}") from problem
    else:
        raise AssertionError(f"{error.__name__} was not raised")


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
