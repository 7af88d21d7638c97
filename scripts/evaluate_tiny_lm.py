"""Bits per byte of a language model on held-out texts, beside a 5-gram model of the same text and tokens.

python scripts/evaluate_tiny_lm.py MODEL ../shared/data

The n-gram model is interpolated Kneser-Ney with a discount for each order (https://doi.org/10.1006/csla.1999.0128),
of the training text of `chilit`. The language model reads windows of its context that overlap by half, so that all but
the first tokens have at least half a context before them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrain_tiny_lm import read_text
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

ORDER, BITS = 5, 12  # five tokens of 12 bits fit into one number
CONTEXT = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    ngrams = KneserNey(_ids(tokenizer, read_text(asked.data / "chilit", "train")), len(tokenizer))
    for name in ("chilit", "tinystories"):
        text = read_text(asked.data / name, "test")
        ids, size = _ids(tokenizer, text), len(text.encode())
        of_model, of_ngrams = _bits(model, ids) / size, ngrams.bits(ids) / size
        print(f"{name} test: {of_model:.4f} bits per byte, 5-gram model {of_ngrams:.4f}", flush=True)


def _ids(tokenizer: Any, text: str) -> np.ndarray:
    pieces = tokenizer([line + "\n" for line in text.split("\n")], add_special_tokens=False)["input_ids"]
    return np.array([i for piece in pieces for i in piece], dtype=np.uint64)


@torch.inference_mode()
def _bits(model: Any, ids: np.ndarray) -> float:
    """Of all tokens but the first."""
    half, total = CONTEXT // 2, 0.0
    tokens = torch.from_numpy(ids.astype(np.int64))
    for start in range(0, len(tokens) - 1, half):
        window = tokens[start : start + CONTEXT + 1]
        losses = F.cross_entropy(model(window[None, :-1]).logits[0], window[1:], reduction="none")
        total += losses[half if start else 0 :].sum().item()
        if start + CONTEXT + 1 >= len(tokens):
            break
    return total / np.log(2)


class KneserNey:
    """Counts are of text for the highest order, below it of the tokens that a sequence was seen after."""

    def __init__(self, ids: np.ndarray, vocabulary: int):
        assert vocabulary <= 2**BITS
        self.vocabulary = vocabulary
        self.tables: list[tuple[np.ndarray, ...]] = []  # from the highest order down
        keys, counts = np.unique(_keys(ids, ORDER), return_counts=True)
        for order in range(ORDER, 0, -1):
            ones, twos = np.sum(counts == 1), np.sum(counts == 2)
            discount = ones / max(1, ones + 2 * twos)
            histories, first = np.unique(keys >> np.uint64(BITS), return_index=True)  # keys are sorted
            totals = np.add.reduceat(counts, first)
            followers = np.diff(np.append(first, len(keys)))
            self.tables.append((keys, counts, histories, totals, followers, np.float64(discount)))
            if order > 1:  # without the first token; each longer sequence counts once
                keys, counts = np.unique(keys & np.uint64(2 ** (BITS * (order - 1)) - 1), return_counts=True)

    def bits(self, ids: np.ndarray) -> float:
        """Of all tokens but the first ORDER - 1."""
        targets = _keys(ids, ORDER)
        p = np.full(len(targets), 1 / self.vocabulary)
        for order, (keys, counts, histories, totals, followers, discount) in enumerate(reversed(self.tables), 1):
            asked = targets & np.uint64(2 ** (BITS * order) - 1)
            count = _found(keys, counts, asked)
            total = _found(histories, totals, asked >> np.uint64(BITS))
            different = _found(histories, followers, asked >> np.uint64(BITS))
            seen = total > 0
            safe = np.where(seen, total, 1)
            p = np.where(seen, (np.maximum(count - discount, 0) + discount * different * p) / safe, p)
        return float(-np.log2(p).sum())


def _keys(ids: np.ndarray, order: int) -> np.ndarray:
    """Each run of `order` tokens as one number, the first token in the highest bits."""
    keys = np.zeros(len(ids) - order + 1, dtype=np.uint64)
    for i in range(order):
        keys = (keys << np.uint64(BITS)) | ids[i : len(ids) - order + 1 + i]
    return keys


def _found(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)


if __name__ == "__main__":
    main()
