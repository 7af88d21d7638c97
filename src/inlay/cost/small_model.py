"""A small model of a kind, with values, to try out what does not depend on size: how its batches are made."""

import copy
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..attached.adapter import attach
from ..core.method import Method
from ..errors import InlayError
from ..tasks.task import Task
from .depth import depth, shallow, turn

_VOCABULARY, _FEED_FORWARD = 512, 64


def choose_batches(task: Task, method: Method, part: str | None) -> None:
    """Let the task choose how it makes batches, as it does when its model is loaded and has its adapter.

    Only a method that adds positions can make a difference, and is attached. A model of which no small one can be made
    gets padded batches.
    """
    if type(task).ready is Task.ready:
        return  # it has no choice
    try:
        with torch.random.fork_rng([]):
            model: Any = task.auto_class.from_config(_small(task.config), dtype=torch.float32)
            model.eval()
            if method.virtual_tokens:
                attach(model, method, part=part)
    except (InlayError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return
    task.ready(model)


def _small(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration with few blocks, heads, features and tokens, and the same shape of each head."""
    blocks = depth(config)
    config = copy.deepcopy(config) if blocks is None else shallow(config, min(blocks, turn(config) + 1))
    texts: Any = config.get_text_config()
    heads, width = getattr(texts, "num_attention_heads", None), getattr(texts, "hidden_size", None)
    groups = getattr(texts, "num_key_value_heads", None) or heads
    if isinstance(heads, int) and isinstance(groups, int) and isinstance(width, int) and heads % groups == 0:
        each = getattr(texts, "head_dim", None) or width // heads
        texts.num_attention_heads, texts.hidden_size = heads // groups, heads // groups * each
        if getattr(texts, "num_key_value_heads", None) is not None:
            texts.num_key_value_heads = 1
    for name, most in (("vocab_size", _VOCABULARY), ("intermediate_size", _FEED_FORWARD)):
        if isinstance(getattr(texts, name, None), int):
            setattr(texts, name, min(most, getattr(texts, name)))
    for name, value in vars(texts).items():
        if name.endswith("token_id") and isinstance(value, int) and value >= _VOCABULARY:
            setattr(texts, name, 0)
    return config
