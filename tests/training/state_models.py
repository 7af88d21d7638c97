from typing import Any

import transformers

from ..shapes import VOCABULARY


def state_models() -> dict[str, Any]:
    """Models in which a text has a trace of the one before it, by a state or a convolution."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1}
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    few = {"num_experts": 4, "num_experts_per_tok": 2}
    jamba = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    kinds = {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "head_dim": 8}
    sizes = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    falcon = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
    return {
        "mamba": transformers.MambaConfig(**small, state_size=4),
        "mamba2": transformers.Mamba2Config(
            **small | {"num_heads": 8, "head_dim": 8, "n_groups": 2}, state_size=4, chunk_size=8
        ),
        "lfm2": transformers.Lfm2Config(**small, layer_types=["conv", "full_attention"]),
        "qwen3_next": transformers.Qwen3NextConfig(**small, **linear, **kinds, **few, **sizes),
        "jamba": transformers.JambaConfig(**small, **few, **jamba, mamba_d_state=4, mamba_dt_rank=4),
        "recurrent_gemma": transformers.RecurrentGemmaConfig(
            **small, block_types=("recurrent", "attention"), lru_width=32
        ),
        "falcon_h1": transformers.FalconH1Config(**small, **falcon, head_dim=8),
    }
