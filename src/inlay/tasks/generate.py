"""Texts from a causal language model: in batches, with a cache, stopping where the training data stops."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from ..batches.evaluated import by_length, of_batches, of_rows
from ..models.sharded import is_sharded

UNBOUNDED = 10**9  # positions of a model that counts none
_ROWS = 16


def generate(
    model: nn.Module,
    prompts: Sequence[list[int]],
    stop: Sequence[int],
    pad: int,
    max_new_tokens: int,
    rows: int = _ROWS,
    temperature: float = 0.0,
    positions: int = UNBOUNDED,
) -> list[list[int]]:
    """Return the ids that follow each prompt, up to and without the first of `stop`. Leaves the model evaluating.

    Greedy at a temperature of 0; above, tokens are drawn from all of the vocabulary. A text ends where the model has no
    more `positions`, of which each prompt must leave one. The active adapters run.
    """
    model.eval()
    asked = GenerationConfig(
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}),
        eos_token_id=list(stop) or None,
        pad_token_id=pad,
    )
    # Whoever has a shard of the model must call it as often as the others, until the last text of all has ended.
    in_step = any(map(is_sharded, model.parameters()))

    def of_batch(chosen: list[int]) -> list[list[int]]:
        asked.max_new_tokens = min(max_new_tokens, *(positions - len(prompts[i]) for i in chosen))
        ids_BT, mask_BT = _left_padded([prompts[i] for i in chosen], pad, next(model.parameters()).device)
        written = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids_BT, attention_mask=mask_BT, generation_config=asked, synced_gpus=in_step
        )
        return [list(_until(row, stop)) for row in written[:, ids_BT.shape[1] :].tolist()]

    batches = _batches([len(prompt) for prompt in prompts], rows, positions - max_new_tokens)
    # What is drawn depends on what was drawn before, so that each process draws all.
    return of_rows(batches, of_batches(model, batches, of_batch, what="writing texts", by_each=bool(temperature)))


def _batches(lengths: Sequence[int], size: int, free: int) -> list[list[int]]:
    """Divide the rows by length. Rows longer than `free`, which have less room than others, are with those of their own
    length, so that none has less for being beside a longer one."""
    groups: dict[int, list[int]] = {}
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        groups.setdefault(max(lengths[i], free), []).append(i)
    return [
        [group[i] for i in chosen]
        for group in groups.values()
        for chosen in by_length([lengths[i] for i in group], size)
    ]


def _left_padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _until(ids: list[int], stop: Sequence[int]) -> Iterator[int]:
    for token in ids:
        if token in stop:
            return
        yield token
