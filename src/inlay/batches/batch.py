"""Texts to padded batches of token ids. Rows of like length share a batch, so that little is padded.

A batch is a dictionary: a model's arguments by name, with the labels under `labels`. One that was collated here also
says what a step asks of it, so that no step looks at a value: an accelerator would wait for each, and a plan is made
with tensors that have none.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..data.classification import Example
from ..devices import send
from ..models.tokenizer import Tokenizer

Batch = dict[str, Tensor]
Documents = tuple[tuple[int, ...], ...]  # the lengths of the texts in each row; padding is a text of its own

LENGTH_STEP = 8  # lengths are padded to its multiples, unless `length_step` finds that none need be
_CHUNK = 32  # batches that are sorted together: enough to find rows of like length, few enough to keep the order random


@dataclass(frozen=True)
class Trained:
    """The tokens that a language model learns from."""

    at: Tensor  # the positions that predict one, counted through all rows
    counts: tuple[int, ...]  # of each row


class Collated(Batch):
    """A batch that is known without a look at its values."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        documents: Documents,
        tokens: tuple[int, ...],
        trained: Trained | None = None,
    ):
        super().__init__(tensors)
        self.documents = documents
        self.tokens = tokens  # of each row, without padding
        self.trained = trained

    def __setitem__(self, key: str, value: Tensor) -> None:
        super().__setitem__(key, value)
        if key == "labels":  # others, perhaps
            self.trained = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Collated":
        """Return the batch with what `change` makes of each of its tensors."""
        trained = self.trained and Trained(change(self.trained.at), self.trained.counts)
        return Collated({key: change(t) for key, t in self.items()}, self.documents, self.tokens, trained)

    def rows(self, start: int, stop: int) -> "Collated":
        trained = self.trained
        if trained is not None:
            first, last = (sum(trained.counts[:row]) for row in (start, stop))
            before = start * self["input_ids"].shape[1]
            trained = Trained(trained.at[first:last] - before, trained.counts[start:stop])
        tensors = {key: t[start:stop] for key, t in self.items()}
        return Collated(tensors, self.documents[start:stop], self.tokens[start:stop], trained)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device, to which it may still be on its way (devices.py)."""
    if isinstance(batch, Collated):
        return batch.mapped(lambda t: send(t, device))
    return {key: send(t, device) for key, t in batch.items()}


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """Return the rows from `start` to before `stop`, as a batch."""
    return batch.rows(start, stop) if isinstance(batch, Collated) else {k: t[start:stop] for k, t in batch.items()}


def divided(batch: Batch, size: int | None) -> list[Batch]:
    """Return what is computed at once of a batch: at most so many rows, shared out evenly, so that processes that share
    a step have as much to do; each row of a packed one; None: the whole.
    """
    rows = len(batch["input_ids"])
    size = rows if size is None else 1 if "position_ids" in batch else size
    parts = batch_count(rows, size)
    least, larger = divmod(rows, parts)  # the larger ones come first
    ends = [number * least + min(number, larger) for number in range(parts + 1)]
    return [rows_of(batch, start, end) for start, end in pairwise(ends)]


def documents_of(batch: Batch) -> Documents | None:
    """Return the lengths of the texts in each row; None if they are not known."""
    return batch.documents if isinstance(batch, Collated) else None


def token_count(batch: Batch) -> int:
    """Count the tokens, without padding."""
    return sum(batch.tokens) if isinstance(batch, Collated) else int(batch["attention_mask"].sum())


@dataclass(frozen=True)
class Tokens:
    """One split, tokenized."""

    rows: list[dict[str, list[int]]]
    labels: list[int]
    cut: int  # rows that were longer than the limit
    unused: frozenset[str] = frozenset()  # places of the examples that have no row

    @cached_property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], max_length: int
) -> list[dict[str, list[int]]]:
    """Tokenize texts, or pairs of texts if the first is one, cut to `max_length` tokens; returns each row's columns."""
    firsts = [text for text, _ in texts]
    pairs = [pair for _, pair in texts] if texts and texts[0][1] is not None else None
    encoded = tokenizer(firsts, pairs, truncation=True, max_length=max_length)
    return [{key: values[i] for key, values in encoded.items()} for i in range(len(firsts))]


def tokenize_split(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> Tokens:
    texts = [(e.text, e.pair) for e in examples]
    rows = tokenize(tokenizer, texts, max_length)
    full = [text for text, row in zip(texts, rows, strict=True) if len(row["input_ids"]) == max_length]
    longer = tokenize(tokenizer, full, max_length + 1) if full else []  # some may end just there
    cut = sum(len(row["input_ids"]) > max_length for row in longer)
    return Tokens(rows, [e.label for e in examples], cut)


def length_step(device: torch.device, dtype: torch.dtype) -> int:
    """Choose what lengths are padded to multiples of.

    A CPU multiplies matrices of any length in float32. Its kernels for bfloat16 keep memory for every new shape, and
    an accelerator's are faster at multiples of eight.
    """
    return 1 if device.type == "cpu" and dtype == torch.float32 else LENGTH_STEP


def padded_length(longest: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-longest // step) * step


def pad(tokenizer: Tokenizer, rows: Sequence[Mapping[str, object]], step: int = LENGTH_STEP) -> Collated:
    """Make a batch of rows, padded to the longest and to a multiple of `step`: (B, T) each column, labels (B,)."""
    labels = {"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {}
    columns = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
    tensors = dict(tokenizer.pad(columns, return_tensors="pt", pad_to_multiple_of=step)) | labels
    lengths = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"])).sum(1).tolist()
    width, left = tensors["input_ids"].shape[1], getattr(tokenizer, "padding_side", "right") == "left"
    documents = [(n,) if n == width else (width - n, n) if left else (n, width - n) for n in lengths]
    return Collated(tensors, tuple(documents), tuple(lengths))


def batch_count(rows: int, batch_size: int) -> int:
    """Count the batches of so many rows, the last of which may be smaller."""
    return -(-rows // batch_size)


class Order(Sampler[list[int]]):
    """Batches of row numbers: of every epoch others, which the seed decides, from the one after `skip` on."""

    def __init__(self, rows: int, batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return islice(self.batches(generator), self.skip, None)

    def __len__(self) -> int:
        """Count the batches of a whole epoch."""
        return batch_count(self.rows, self.batch_size)

    @abstractmethod
    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        """Yield all batches of one epoch."""


class LengthGroups(Order):
    """Shuffled rows, sorted by length within chunks of batches, and the batches shuffled again."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        super().__init__(len(lengths), batch_size, seed)
        self.lengths = lengths

    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), _CHUNK * self.batch_size):
            chunk = sorted(order[start : start + _CHUNK * self.batch_size], key=lambda i: self.lengths[i])
            batches += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]
