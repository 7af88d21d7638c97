"""Small models that read pictures beside texts, built from configurations."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

_MARKS = ["<pad>", "<s>", "</s>", "<image>", "<video>", "<begin>", "<end>"]
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TEXT = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 272, "max_position_embeddings": 64}
_TEXT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ROTATION = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_SIGHT = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 4,
}
_IDS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}


def save(model: Any, folder: Path) -> str:
    """The model and a tokenizer of bytes; returns the folder's name."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def byte_tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate([*_MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, extra_special_tokens=_MARKS[3:], **names
    )


def gemma3() -> Any:
    """Its class for texts is the one for pictures and texts."""
    config = transformers.Gemma3Config(
        text_config=_TEXT,
        vision_config=_SIZES | {"image_size": 16, "patch_size": 8},
        mm_tokens_per_image=1,
        image_token_index=3,
        boi_token_index=5,
        eoi_token_index=6,
    )
    return _made(transformers.Gemma3ForConditionalGeneration, config)


def qwen2_5_vl() -> Any:
    """It has no class for texts, and no classifier."""
    config = transformers.Qwen2_5_VLConfig(
        text_config={k: v for k, v in _TEXT.items() if k != "head_dim"} | {"rope_parameters": _ROTATION},
        vision_config=_SIGHT | {"fullatt_block_indexes": [1], "window_size": 16},
        **_IDS,
    )
    return _made(transformers.Qwen2_5_VLForConditionalGeneration, config)


def qwen3_5() -> Any:
    """Its class for texts is its language model by itself, in which one layer of two carries a state."""
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    kinds = {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4}
    config = transformers.Qwen3_5Config(
        text_config=_TEXT | linear | kinds,
        vision_config=_SIGHT | {"num_position_embeddings": 16},
        **_IDS,
    )
    return _made(transformers.Qwen3_5ForConditionalGeneration, config)


def _made(cls: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return cls(config).eval()
