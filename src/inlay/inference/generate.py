"""Texts from a causal language model: in batches, with a cache, stopping where the training data stops.

A soft prompt at the model's input is run once: what it leaves in the cache stands before every text, and the base
generates behind it. So its positions cost no time in later batches, and no adapter runs.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from ..core.adapter import Adapter, using
from ..methods.prompts.soft_prompt import SoftPrompt

_ROWS = 16


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[list[int]],
    stop: Sequence[int],
    pad: int,
    max_new_tokens: int,
    rows: int = _ROWS,
    **sampling: Any,
) -> list[list[int]]:
    """The ids that follow each prompt, up to and without the first of `stop`. Leaves the model in evaluation mode.

    Greedy, unless `sampling` (such as do_sample=True, temperature=0.7) says otherwise. The active adapters run.
    """
    model.eval()
    asked = GenerationConfig(
        **({"do_sample": False} | sampling), max_new_tokens=max_new_tokens, eos_token_id=list(stop), pad_token_id=pad
    )
    found: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    prefix = _Prefix.of(model)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        ids_BT, mask_BT = _left_padded([prompts[i] for i in chosen], pad, next(model.parameters()).device)
        written = model.generate(**prefix.before(ids_BT, mask_BT), generation_config=asked)  # pyright: ignore[reportCallIssue]
        for i, row in zip(chosen, written[:, ids_BT.shape[1] + prefix.count :].tolist(), strict=True):
            found[i] = list(_until(row, stop))
    prefix.close()
    return [found[i] for i in range(len(prompts))]


class _Prefix:
    """What a soft prompt left in the cache; nothing, of no positions, if the active adapter is another."""

    count = 0

    @classmethod
    def of(cls, model: nn.Module) -> "_Prefix":
        prompt = _only_prompt(model)
        return cls() if prompt is None else _SoftPrefix(model, prompt)

    def before(self, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Any]:
        """The arguments of generate."""
        return {"input_ids": ids_BT, "attention_mask": mask_BT}

    def close(self) -> None:
        pass


class _SoftPrefix(_Prefix):
    def __init__(self, model: Any, prompt: SoftPrompt):
        self.count = prompt.count
        self.base = using(model)
        self.base.__enter__()
        embeddings = model.get_input_embeddings()
        p_1PD = prompt.prompt()[None].to(embeddings.weight.dtype)
        self.cache = model(inputs_embeds=p_1PD, use_cache=True, logits_to_keep=1).past_key_values

    def before(self, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Any]:
        cache: DynamicCache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(ids_BT))
        # ids of the prefix's positions: generate leaves out as many as the cache holds
        ids_BP, mask_BP = ids_BT.new_zeros(len(ids_BT), self.count), mask_BT.new_ones(len(ids_BT), self.count)
        return {
            "input_ids": torch.cat([ids_BP, ids_BT], dim=1),
            "attention_mask": torch.cat([mask_BP, mask_BT], dim=1),
            "past_key_values": cache,
        }

    def close(self) -> None:
        self.base.__exit__(None, None, None)


def _only_prompt(model: nn.Module) -> SoftPrompt | None:
    """The soft prompt of the one active adapter, if that is all there is to it."""
    state = getattr(model, "_inlay", None)
    active = state.routing.active if state is not None and state.routing.rows is None else ()
    if state is None or len(active) != 1:
        return None
    adapter: Adapter = state.adapters[active[0]]
    deltas = list(adapter.deltas.values())
    return deltas[0] if len(deltas) == 1 and isinstance(deltas[0], SoftPrompt) else None


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
