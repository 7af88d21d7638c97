"""Small mixtures of experts, one of each kind that transformers has: built here, nothing is downloaded."""

from typing import Any

import torch
import transformers
from torch import Tensor

VOCABULARY = 64

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FOUR = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}

# name: configuration, model, and what differs from _SMALL
MIXTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", _LOCAL),
    "qwen2_moe": (
        *("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
        _FOUR | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", _FOUR | {"head_dim": 8, "moe_intermediate_size": 24}),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", _FOUR),
    "deepseek_v2": ("DeepseekV2Config", "DeepseekV2ForCausalLM", _ROUTED | _LATENT | {"n_shared_experts": 1}),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", _ROUTED | _LATENT | {"n_shared_experts": 1}),
    "glm4_moe": ("Glm4MoeConfig", "Glm4MoeForCausalLM", _ROUTED | {"head_dim": 8}),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", _LOCAL | {"head_dim": 8}),
    "llama4": (
        *("Llama4TextConfig", "Llama4ForCausalLM"),
        _LOCAL | {"head_dim": 8, "intermediate_size_mlp": 40, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
    ),
    "granitemoe": ("GraniteMoeConfig", "GraniteMoeForCausalLM", _LOCAL),
    "jetmoe": ("JetMoeConfig", "JetMoeForCausalLM", _LOCAL | {"kv_channels": 8}),
    "ernie4_5_moe": (
        *("Ernie4_5_MoeConfig", "Ernie4_5_MoeForCausalLM"),
        {"moe_intermediate_size": 24, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0},
    ),
    "minimax": ("MiniMaxConfig", "MiniMaxForCausalLM", _LOCAL | {"head_dim": 8, "block_size": 8}),
    "hunyuan": ("HunYuanMoEV1Config", "HunYuanMoEV1ForCausalLM", {"head_dim": 8, "num_experts": 4, "moe_topk": 2}),
    "phimoe": ("PhimoeConfig", "PhimoeForCausalLM", _LOCAL),
    "aria": (
        "AriaTextConfig",
        "AriaTextForCausalLM",
        {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    ),
    "nemotron_h": (
        *("NemotronHConfig", "NemotronHForCausalLM"),
        _ROUTED
        | {"head_dim": 8, "layers_block_type": ["moe", "attention", "moe"], "moe_shared_expert_intermediate_size": 24},
    ),
    "jamba": (
        *("JambaConfig", "JambaForCausalLM"),
        _FOUR
        | {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 1}
        | {"expert_layer_offset": 0, "mamba_d_state": 4, "mamba_expand": 1},
    ),
    "gemma4": (
        *("Gemma4TextConfig", "Gemma4ForCausalLM"),
        {"head_dim": 8, "global_head_dim": 8, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
        | {"moe_intermediate_size": 24, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
}


def mixture(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    config, model, settings = MIXTURES[name]
    settings = dict(_SMALL) | settings | changes
    if name == "nemotron_h":
        del settings["num_hidden_layers"]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # some weights start at zero, or so small that experts hardly count
        for p in made.parameters():
            if p.ndim > 1:
                p.normal_(std=0.25, generator=generator)
    return made.to(dtype)


def ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))


def logits(model: Any) -> Tensor:
    return model(input_ids=ids(), use_cache=False).logits
