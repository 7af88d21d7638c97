"""A small model of a large one's configuration, to try out in a moment what does not depend on its size."""

import copy

import torch
import transformers
from torch import nn

_WIDTHS = {"intermediate_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
_NUMBERS_OF_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_HEADS, _VOCABULARY, _EXPERTS = 2, 64, 4


def small_model(model_class: type[transformers.PreTrainedModel], config: transformers.PreTrainedConfig) -> nn.Module:
    """Make one with random weights, which leaves the random numbers as they were.

    Its layers are as few as show each kind that there is, its heads as wide as they were, for positions are turned
    within a head. Raises whatever the class raises if that does not go together.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    heads = getattr(text, "num_attention_heads", 1)
    width = getattr(text, "head_dim", None) or getattr(text, "hidden_size", heads) // heads
    kinds = getattr(text, "layer_types", None)
    layers = 2 if kinds is None else max(2, 1 + max(kinds.index(kind) for kind in set(kinds)))
    sizes = {"num_attention_heads": _HEADS, "hidden_size": _HEADS * width, "vocab_size": _VOCABULARY}
    sizes |= {"num_key_value_heads": _HEADS if getattr(text, "num_key_value_heads", None) == heads else 1}
    sizes |= {"num_hidden_layers": layers, **_WIDTHS}
    sizes |= {name: min(getattr(text, name, None) or 0, _EXPERTS) for name in _NUMBERS_OF_EXPERTS}
    sizes |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    for name, value in (sizes | {"layer_types": (kinds or [])[:layers]}).items():
        if isinstance(getattr(text, name, None), type(value)):
            setattr(text, name, value)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return model_class._from_config(small, dtype=torch.float32)
