"""Several texts in one row of a batch, one after the other, instead of each in a row of its own with padding after it.

A token attends to its own text alone, and its position is counted from its text's first token, so losses and gradients
are those of the padded batch. No text is cut: `best_fit` fills rows as well as whole texts can.
"""

import inspect
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.tokens import TokenRow
from .batch import LENGTH_STEP, Collated, Order, Trained, padded_length
from .chunked_loss import IGNORED

_PACKED_STEP = 4 * LENGTH_STEP  # or more: a row of many texts has far more lengths to choose from


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Arrange texts, by their numbers, in rows of at most `capacity` tokens: best-fit decreasing.

    The longest first, each goes where it leaves the least room. A text longer than `capacity` has a row of its own.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # how many tokens a row has left, and its number; in order
    for text in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = bisect_left(rooms, (lengths[text], 0))
        if found == len(rooms):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room, row = rooms.pop(found)
        rows[row].append(text)
        insort(rooms, (room - lengths[text], row))
    return rows


def packed(texts: Sequence[TokenRow], capacity: int | None = None) -> Collated:
    """Make a batch of rows of at most `capacity` tokens, or of one row; for `causal_loss` alone.

    `position_ids` tell it where texts begin. A model that is given them together with a cache or an attention mask
    takes a row for one text.
    """
    lengths = [len(text["input_ids"]) for text in texts]
    rows = best_fit(lengths, sum(lengths) if capacity is None else capacity)
    return _batch(texts, rows, packed_length(max(sum(lengths[i] for i in row) for row in rows)), are_packed=True)


def packed_length(longest: int) -> int:
    """Return the length to which packed rows are padded, the longest of which has so many tokens."""
    step = max(_PACKED_STEP, 2 ** (longest.bit_length() - 5))  # sixteen lengths up to the double
    return -(-longest // step) * step


def padded(texts: Sequence[TokenRow], step: int = LENGTH_STEP) -> Collated:
    """Make a batch of one row for each text, in their order, with padding after it."""
    longest = max(len(text["input_ids"]) for text in texts)
    return _batch(texts, [[i] for i in range(len(texts))], padded_length(longest, step), are_packed=False)


def can_pack(model: Any) -> bool:
    """Try out whether a text has the same logits in a packed row as alone, with the adapters that are active.

    Not so for a soft prompt, which only comes before a row, for models that carry a state from token to token, and for
    those that count positions in ways of their own.
    """
    if model.config.is_encoder_decoder or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    embeddings = model.get_input_embeddings()
    weight = embeddings.weight
    random = torch.Generator().manual_seed(0)
    first, other, text = (torch.randint(len(weight), (n,), generator=random).to(weight.device) for n in (5, 5, 7))
    rows = torch.stack([torch.cat([first, text]), torch.cat([other, text])])
    positions = torch.cat([torch.arange(5), torch.arange(7)]).to(weight.device).expand(2, -1)
    embedded: list[Tensor] = []

    def keep(_: nn.Module, __: object, x: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # not sooner: the first whole pass with gradients is training's (models/watch.py)
        embedded.append(x.detach().requires_grad_())
        return embedded[-1]

    training = [m for m in model.modules() if m.training]
    model.eval()
    hook = embeddings.register_forward_hook(keep)
    try:
        with torch.no_grad():
            logits_BTV = model(input_ids=rows, position_ids=positions, use_cache=False).logits
            touched = _touched(logits_BTV[:, 5:], embedded[0]) if embedded else None
        hook.remove()
        with torch.no_grad():
            alone = model(input_ids=text[None], use_cache=False).logits[0].float()
    finally:
        hook.remove()
        for module in training:
            module.training = True
    if touched is None or touched.shape != rows.shape or touched[:, :5].any():
        return False
    after_first, after_other = logits_BTV.detach()[:, 5:].float()
    size, exact = alone.abs().max(), logits_BTV.dtype == torch.float32  # of `full`, the weights alone are in float32
    isolated = (after_first - after_other).abs().max() <= (1e-5 if exact else 1e-2) * size
    return bool(isolated and (after_first - alone).abs().max() <= (1e-4 if exact else 5e-2) * size)


def _touched(logits_BTV: Tensor, x_BTD: Tensor) -> Tensor | None:
    """Return (B, T): which embeddings have a part in the logits, however small; masked ones have no gradient."""
    random = torch.Generator().manual_seed(1)
    weight_V = torch.randn(logits_BTV.shape[-1], generator=random).to(logits_BTV)
    (gradient,) = torch.autograd.grad((logits_BTV * weight_V).sum(), x_BTD, allow_unused=True)
    return None if gradient is None else (gradient != 0).any(-1)


class Shuffled(Order):
    """Rows in random order: packed rows need no texts of like length."""

    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        yield from (part.tolist() for part in torch.randperm(self.rows, generator=generator).split(self.batch_size))


def _batch(texts: Sequence[TokenRow], rows: Sequence[Sequence[int]], width: int, are_packed: bool) -> Collated:
    lengths, shape = [len(text["input_ids"]) for text in texts], (len(rows), width)
    batch = {
        "input_ids": torch.full(shape, texts[0]["input_ids"][0]),  # in padding any token will do
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    position_BT = torch.zeros(shape, dtype=torch.long)
    # Of padding between packed rows no text is longer than the longest, so that no position is further than those.
    piece = max(lengths) if are_packed else width
    documents, tokens = [], []
    for row, members in enumerate(rows):
        end = 0
        for i in members:
            start, end = end, end + lengths[i]
            ids, trained = torch.tensor(texts[i]["input_ids"]), torch.tensor(texts[i]["trained"])
            trained[0] = False  # nothing predicts it, least of all the text before
            batch["input_ids"][row, start:end] = ids
            position_BT[row, start:end] = torch.arange(lengths[i])
            batch["labels"][row, start:end] = ids.masked_fill(~trained, IGNORED)
        batch["attention_mask"][row, :end] = 1
        position_BT[row, end:] = torch.arange(width - end) % piece
        padding = [min(piece, width - start) for start in range(end, width, piece)]
        documents.append((*(lengths[i] for i in members), *padding))
        tokens.append(end)
    if are_packed:
        batch["position_ids"] = position_BT
    return Collated(batch, tuple(documents), tuple(tokens), _trained(batch["labels"]))


def _trained(label_BT: Tensor) -> Trained:
    is_target_BT = F.pad(label_BT[:, 1:] != IGNORED, (0, 1))
    return Trained(is_target_BT.flatten().nonzero().squeeze(1), tuple(is_target_BT.sum(1).tolist()))
