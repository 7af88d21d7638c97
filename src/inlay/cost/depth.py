"""A deep model's cost from those of shallow ones: every block more takes as much as the one before.

A model of 80 blocks is then planned in the time of one with six. Blocks of several kinds come in turns, which shallow
models have as well, whole.
"""

import copy
from typing import Any

from transformers import PreTrainedConfig

_LEAST = 2  # blocks; with fewer the first is the last


def depth(config: PreTrainedConfig) -> int | None:
    """Return how many blocks the configuration asks for; None where that is not one number."""
    texts = config.get_text_config()
    blocks = getattr(texts, "num_hidden_layers", None)
    return blocks if isinstance(blocks, int) and blocks > 0 and not config.is_encoder_decoder else None


def turn(config: PreTrainedConfig) -> int:
    """Return after how many blocks their kinds come again; 1 if all are alike, the depth if they never do."""
    blocks = depth(config) or 1
    kinds = [each for each in vars(config.get_text_config()).values() if _is_of_blocks(each, blocks)]
    for length in range(1, blocks):
        if all(each[i] == each[i - length] for each in kinds for i in range(length, blocks)):
            return length
    return blocks


def shallow(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    """Return the configuration with its first blocks alone."""
    config = copy.deepcopy(config)
    texts: Any = config.get_text_config()
    before = texts.num_hidden_layers
    for name, value in list(vars(texts).items()):
        if _is_of_blocks(value, before):
            setattr(texts, name, value[:blocks])
    texts.num_hidden_layers = blocks
    return config


def depths(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Choose two depths from which the cost of the whole can be told; None if the whole is no deeper than these."""
    blocks, length = depth(config), turn(config)
    if blocks is None:
        return None
    less = length * -(-_LEAST // length) + blocks % length
    return (less, less + length) if blocks > 2 * (less + length) else None


def _is_of_blocks(value: object, blocks: int) -> bool:
    return isinstance(value, list) and len(value) == blocks > 1
