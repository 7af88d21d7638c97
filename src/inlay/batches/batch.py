"""Texts to padded batches of token ids. Rows of like length share a batch, so that little is padded."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..data.classification import Example
from ..models.tokenizer import Tokenizer

Batch = dict[str, Tensor]

LENGTH_STEP = 8  # lengths are padded to its multiples, unless `length_step` finds that none need be
_CHUNK = 32  # batches that are sorted together: enough to find rows of like length, few enough to keep the order random


@dataclass(frozen=True)
class Tokens:
    """One split, tokenized."""

    rows: list[dict[str, list[int]]]
    labels: list[int]
    cut: int  # rows that were longer than the limit

    @cached_property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], max_length: int
) -> list[dict[str, list[int]]]:
    firsts = [text for text, _ in texts]
    pairs = [pair for _, pair in texts] if texts and texts[0][1] is not None else None
    encoded = tokenizer(firsts, pairs, truncation=True, max_length=max_length)
    return [{key: values[i] for key, values in encoded.items()} for i in range(len(firsts))]


def tokenize_split(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> Tokens:
    rows = tokenize(tokenizer, [(e.text, e.pair) for e in examples], max_length)
    cut = sum(len(row["input_ids"]) == max_length for row in rows)
    return Tokens(rows, [e.label for e in examples], cut)


def in_order_of_length(
    tokenizer: Tokenizer,
    rows: Sequence[dict[str, list[int]]],
    batch_size: int = 32,
    step: int = LENGTH_STEP,
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of all rows, the longest first so that memory runs out at once or never, with positions."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]["input_ids"]), i))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, pad(tokenizer, [rows[i] for i in chosen], step)


def length_step(device: torch.device, dtype: torch.dtype) -> int:
    """Choose what lengths are padded to multiples of.

    A CPU multiplies matrices of any length in float32. Its kernels for bfloat16 keep memory for every new shape, and
    an accelerator's are faster at multiples of eight.
    """
    return 1 if device.type == "cpu" and dtype == torch.float32 else LENGTH_STEP


def padded_length(longest: int, step: int) -> int:
    return -(-longest // step) * step


def pad(tokenizer: Tokenizer, rows: Sequence[Mapping[str, object]], step: int = LENGTH_STEP) -> Batch:
    labels = {"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {}
    columns = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
    return dict(tokenizer.pad(columns, return_tensors="pt", pad_to_multiple_of=step)) | labels


class Order(Sampler[list[int]]):
    """Batches of row numbers: of every epoch others, which the seed decides, from the one after `skip` on."""

    def __init__(self, seed: int):
        self.seed, self.epoch, self.skip = seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return islice(self.batches(generator), self.skip, None)

    @abstractmethod
    def __len__(self) -> int:
        """Count the batches of a whole epoch."""

    @abstractmethod
    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        """Yield all batches of one epoch."""


class LengthGroups(Order):
    """Shuffled rows, sorted by length within chunks of batches, and the batches shuffled again."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        super().__init__(seed)
        self.lengths, self.batch_size = lengths, batch_size

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), _CHUNK * self.batch_size):
            chunk = sorted(order[start : start + _CHUNK * self.batch_size], key=lambda i: self.lengths[i])
            batches += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]
