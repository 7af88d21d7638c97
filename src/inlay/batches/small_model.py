"""A small model of a large one's configuration, to try out in a moment what does not depend on its size."""

import copy
from typing import Any

import torch
import transformers
from torch import nn

_WIDTHS = {"intermediate_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
_HEADS, _VOCABULARY, _EXPERTS = 2, 64, 4


def small_model(model_class: type[transformers.PreTrainedModel], config: transformers.PreTrainedConfig) -> nn.Module:
    """Make one with random weights, which leaves the random numbers as they were.

    Its layers are as few as show each kind that there is, its heads as wide as they were, for positions are turned
    within a head. Raises whatever the class raises if that does not go together.
    """
    small = copy.deepcopy(config)
    text: Any = small.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None)
    if keys is not None:
        text.num_key_value_heads = _HEADS if keys == text.num_attention_heads else 1
    text.num_attention_heads, text.hidden_size = _HEADS, _HEADS * width
    for name, size in _WIDTHS.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, size)
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if isinstance(count := getattr(text, name, None), int):
            setattr(text, name, min(count, _EXPERTS))
    kinds = getattr(text, "layer_types", None)
    text.num_hidden_layers = 2 if kinds is None else max(2, 1 + max(kinds.index(kind) for kind in set(kinds)))
    if kinds is not None:
        text.layer_types = kinds[: text.num_hidden_layers]
    text.vocab_size = _VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(text, name, None) is not None:
            setattr(text, name, 0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return model_class._from_config(small, dtype=torch.float32)
