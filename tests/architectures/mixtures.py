"""Language models with experts, of which some run for each token."""

from .architecture import GROUPED, causal

_FOUR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_FULL = GROUPED | {"num_key_value_heads": 4}

MIXTURES = (
    causal("mixtral", "Mixtral", kind="mixture", **GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    causal("qwen2_moe", "Qwen2Moe", kind="mixture", **GROUPED, **_FOUR_EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    causal("qwen3_moe", "Qwen3Moe", kind="mixture", **GROUPED, **_FOUR_EXPERTS, moe_intermediate_size=16, head_dim=8),
    causal("olmoe", "Olmoe", kind="mixture", **GROUPED, **_FOUR_EXPERTS),
    causal("deepseek_v2", "DeepseekV2", kind="mixture", **_FULL, **_LATENT, n_shared_experts=1, topk_method="greedy"),
    causal("deepseek_v3", "DeepseekV3", kind="mixture", **_FULL, **_LATENT, n_shared_experts=1),
    causal("gpt_oss", "GptOss", kind="mixture", **GROUPED, num_local_experts=4, num_experts_per_tok=2, head_dim=8, sliding_window=8),
    causal("llama4_text", "Llama4", config="Llama4Text", kind="mixture", **GROUPED, head_dim=8, intermediate_size_mlp=48,
        num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2, attention_chunk_size=64),
    causal("phimoe", "Phimoe", kind="mixture", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    causal("granitemoe", "GraniteMoe", kind="mixture", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    causal("jetmoe", "JetMoe", kind="mixture", **GROUPED | {"num_attention_heads": 4}, kv_channels=8, num_local_experts=4, num_experts_per_tok=2),
    causal("dbrx", "Dbrx", kind="mixture", d_model=32, n_heads=4, n_layers=2, max_seq_len=128, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}, ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32}),
    causal("glm4_moe", "Glm4Moe", kind="mixture", **GROUPED, head_dim=8, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1, n_group=1, topk_group=1),
    causal("ernie4_5_moe", "Ernie4_5_Moe", kind="mixture", **GROUPED, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1),
)
