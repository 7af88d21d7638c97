"""Language models with a state: all their blocks, or some beside those that attend."""

from dataclasses import replace

from .architecture import GROUPED, SMALL, VOCABULARY, causal

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_MAMBA = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": VOCABULARY, **_IDS}
_MAMBA_2 = {"head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8}
_BAMBA = {"mamba_d_state": 4, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8}
_FOUR = GROUPED | {"num_hidden_layers": 4}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}

HYBRIDS = (
    causal("mamba", "Mamba", kind="hybrid", **_MAMBA),
    causal("falcon_mamba", "FalconMamba", kind="hybrid", **_MAMBA),
    causal("mamba2", "Mamba2", kind="hybrid", **_MAMBA, **_MAMBA_2),
    causal(
        "jamba",
        "Jamba",
        kind="hybrid",
        blocks=4,
        **_FOUR,
        attn_layer_period=4,
        attn_layer_offset=3,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    causal("bamba", "Bamba", kind="hybrid", blocks=4, **_FOUR, **_BAMBA, attn_layer_indices=[3]),
    causal("falcon_h1", "FalconH1", kind="hybrid", **GROUPED, **_BAMBA, mamba_d_ssm=64),
    causal("lfm2", "Lfm2", kind="hybrid", blocks=4, **_FOUR, layer_types=["conv", "conv", "full_attention", "conv"]),
    causal(
        "recurrent_gemma",
        "RecurrentGemma",
        kind="hybrid",
        blocks=3,
        **GROUPED | {"num_hidden_layers": 3},
        attention_window_size=8,
        lru_width=32,
        block_types=["recurrent", "recurrent", "attention"],
    ),
    causal(
        "qwen3_next",
        "Qwen3Next",
        kind="hybrid",
        blocks=4,
        **_FOUR,
        **_LINEAR,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    causal("qwen3_5_text", "Qwen3_5", config="Qwen3_5Text", kind="hybrid", blocks=4, **_FOUR, **_LINEAR, head_dim=8),
    causal(
        "zamba2",
        "Zamba2",
        kind="hybrid",
        blocks=3,
        **SMALL | {"num_hidden_layers": 3},
        mamba_d_state=4,
        mamba_ngroups=2,
        n_mamba_heads=8,
        chunk_size=8,
        layers_block_type=["mamba", "hybrid", "hybrid"],
        num_mem_blocks=1,
        use_mem_rope=True,
        adapter_rank=4,
        use_shared_attention_adapter=True,
    ),
    causal("granitemoehybrid", "GraniteMoeHybrid", kind="hybrid", blocks=4, **_FOUR, **_BAMBA,
        layer_types=["mamba", "mamba", "mamba", "attention"], num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=16),
    causal("nemotron_h", "NemotronH", kind="hybrid", blocks=3, **GROUPED, head_dim=8,
        layers_block_type=["mamba", "attention", "mamba"], ssm_state_size=4, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, chunk_size=8),
    causal("rwkv", "Rwkv", kind="hybrid", hidden_size=32, attention_hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=VOCABULARY, context_length=64, **_IDS),
)
