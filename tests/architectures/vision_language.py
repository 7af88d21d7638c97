"""Language models that also see: with text rows, for which the language model is adapted, and with images."""

from collections.abc import Callable

import torch

from .architecture import GROUPED, Architecture, Batch, causal_batch, ids, made, noise

_IMAGE_TOKEN = 5
_TEXT = {k: v for k, v in GROUPED.items()} | {"head_dim": 8}
_VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}


def _with_image(positions: int, image: Callable[[], Batch]) -> Callable[[], Batch]:
    """Rows of which each begins with an image that takes so many positions."""

    def batch() -> Batch:
        ids_BT = ids(rows=2)
        ids_BT = torch.cat([ids_BT[:, :1], torch.full((2, positions), _IMAGE_TOKEN), ids_BT[:, 1:]], dim=1)
        given = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT.clone()}
        return given | image()

    return batch


def _both(
    name: str, model: str, config: str, blocks: int, positions: int, image: Callable[[], Batch], **settings
) -> tuple[Architecture, Architecture]:
    make = made(model, config, image_token_id=_IMAGE_TOKEN, **settings)
    common = {"kind": "vision-language", "make": make}
    return (
        Architecture(name=f"{name} (texts)", **common, batch=causal_batch, blocks=2, generates=True, text_part=True),
        Architecture(
            name=f"{name} (images)",
            **common,
            batch=_with_image(positions, image),
            blocks=blocks,
            texts=False,
            generates=True,
        ),
    )


def _gemma() -> Batch:
    types = torch.zeros(2, 11, dtype=torch.long)
    types[:, 1:5] = 1
    return {"pixel_values": noise(2, 3, 16, 16), "token_type_ids": types}


def _grid() -> Batch:
    patches = 4 * 4
    types = torch.zeros(2, 11, dtype=torch.long)
    types[:, 1:5] = 1
    return {
        "pixel_values": noise(2 * patches, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
        "mm_token_type_ids": types,
    }


def _plain() -> Batch:
    return {"pixel_values": noise(2, 3, 16, 16)}


def _tiles() -> Batch:
    return {"pixel_values": noise(2, 1, 3, 16, 16)}


_ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}}
_QWEN = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_QWEN_IDS = {"video_token_id": 3, "vision_start_token_id": 4, "vision_end_token_id": 4}

VISION_LANGUAGE = (
    *_both(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        4,
        4,
        _gemma,
        text_config=_TEXT | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config=_VIT,
        mm_tokens_per_image=4,
        image_token_index=_IMAGE_TOKEN,
        boi_token_index=4,
        eoi_token_index=3,
    ),
    *_both(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        4,
        4,
        _grid,
        text_config=_TEXT | _ROPE,
        vision_config=_QWEN | {"window_size": 16, "fullatt_block_indexes": [1]},
        **_QWEN_IDS,
    ),
    *_both(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        4,
        4,
        _grid,
        text_config=_TEXT | _ROPE,
        vision_config=_QWEN | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **_QWEN_IDS,
    ),
    *_both(
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5Config",
        4,
        4,
        _grid,
        text_config=_TEXT | _ROPE | _LINEAR,
        vision_config=_QWEN | {"num_position_embeddings": 16},
        **_QWEN_IDS,
    ),
    *_both(
        "llava",
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        4,
        16,
        _plain,
        text_config=_TEXT | {"model_type": "llama"},
        vision_config=_VIT | {"model_type": "clip_vision_model"},
        image_token_index=_IMAGE_TOKEN,
    ),
    *_both(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        4,
        4,
        _tiles,
        text_config=_TEXT | {"model_type": "llama"},
        vision_config=_VIT,
        scale_factor=2,
    ),
    *_both(
        "smolvlm",
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        4,
        4,
        _tiles,
        text_config=_TEXT | {"model_type": "llama"},
        vision_config=_VIT,
        scale_factor=2,
    ),
    *_both(
        "llama4",
        "Llama4ForConditionalGeneration",
        "Llama4Config",
        4,
        4,
        _plain,
        text_config=_TEXT
        | {
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
        },
        vision_config=_VIT
        | {
            "pixel_shuffle_ratio": 0.5,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
            "intermediate_size": 128,
        },
        image_token_index=_IMAGE_TOKEN,
    ),
    *_both(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        4,
        16,
        _gemma_free := _plain,
        text_config=_TEXT | {"model_type": "gemma"},
        vision_config=_VIT | {"model_type": "siglip_vision_model", "projection_dim": 32},
        projection_dim=32,
        image_token_index=_IMAGE_TOKEN,
    ),
)
