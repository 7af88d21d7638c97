"""What is known of a batch while the model runs: the texts in each of its rows, and so where padding is.

Transformers looks for both in the values of positions and masks. Attention text by text (document_attention.py) asks
here first, and so do transformers' own masks where tensors have no values to look at (fake_tensors.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

Lengths = tuple[tuple[int, ...], ...]  # of the texts in each row; padding is a text of its own


@dataclass
class Known:
    """The texts of a batch that the model is called with now."""

    lengths: Lengths
    positions: Tensor | None  # of the tokens in their texts, if the rows are packed
    taken: bool = False  # attention has asked for the texts

    @property
    def one_each(self) -> bool:
        return all(len(row) == 1 for row in self.lengths)

    def fits(self, rows: int, width: int) -> bool:
        return len(self.lengths) == rows and all(sum(row) == width for row in self.lengths)


_known: ContextVar[Known | None] = ContextVar("known", default=None)


def known() -> Known | None:
    return _known.get()


@contextmanager
def knowing(lengths: Lengths | None, positions: Tensor | None = None) -> Iterator[Known | None]:
    """Say what the texts of the batch are for as long as the block runs; None: that nothing is known of it."""
    found = None if lengths is None else Known(lengths, positions)
    token = _known.set(found)
    try:
        yield found
    finally:
        _known.reset(token)
