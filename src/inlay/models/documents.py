"""Masks that say where the texts of a batch are, instead of which of all T² pairs of tokens may see each other.

Attention text by text (document_attention.py) makes and takes them.

Shape suffixes: Q tokens of a text, K what they may see, P earlier keys.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NAME = "inlay_documents"  # of the attention implementation that takes them


@dataclass(frozen=True)
class Document:
    """A text in a row: its length, and what each of its tokens sees of it if that is less than all before."""

    length: int
    visible_QQ: Tensor | None


@dataclass(frozen=True)
class Documents:
    """A mask: the texts of each row of the batch. `earlier` keys come before those of the row and belong to each, as
    far as a `window` over them and the text's own reaches."""

    rows: tuple[tuple[Document, ...], ...]
    ends: Tensor  # of the texts, counted through all rows, with a 0 first
    earlier: int = 0
    window: int | None = None

    def widened(self, count: int, window: int | None = None) -> "Documents":
        return replace(self, earlier=self.earlier + count, window=window)


def earlier_in_window(visible_QK: Tensor, count: int, window: int) -> Tensor:
    """Return which of `count` keys right before a text each of its queries sees, (Q, P), as the window over all would
    have it.

    `visible_QK` tells how far into its text a query is: a window that is full of text has no place for earlier keys.
    """
    number_Q1 = visible_QK.sum(-1, keepdim=True)
    distance_QP = number_Q1 - 1 + count - torch.arange(count, device=visible_QK.device)
    return distance_QP < window
