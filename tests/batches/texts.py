"""Texts as rows of tokens."""

from collections.abc import Iterable
from typing import Any

import torch

from ..shapes import VOCABULARY


def some_texts(lengths: Iterable[int] = (5, 3, 9, 1, 7, 7, 2)) -> list[dict[str, list[Any]]]:
    random = torch.Generator().manual_seed(3)
    texts = []
    for n in lengths:
        ids = torch.randint(2, VOCABULARY, (n,), generator=random).tolist()
        texts.append({"input_ids": ids, "trained": [i >= n // 3 for i in range(n)]})
    return texts
