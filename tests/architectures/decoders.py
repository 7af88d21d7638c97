"""Language models whose every block attends to what came before."""

from dataclasses import replace

from .architecture import GROUPED, SMALL, VOCABULARY, causal, classifier, made

_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 128, "n_ctx": 128}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA_3N = {
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0, 0.0],
    "num_kv_shared_layers": 0,
}
_GPT_1 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 128}

DECODERS = (
    causal("llama", "Llama", **GROUPED),
    classifier("llama (classifier)", "Llama", kind="decoder", **GROUPED),
    causal("mistral", "Mistral", **GROUPED, sliding_window=8),
    causal("qwen2", "Qwen2", **GROUPED),
    causal("qwen3", "Qwen3", **GROUPED, head_dim=8),
    causal("gemma", "Gemma", **GROUPED, head_dim=8),
    causal("gemma2", "Gemma2", **GROUPED, head_dim=8, **_WINDOW),
    causal("gemma3_text", "Gemma3", config="Gemma3Text", **GROUPED, head_dim=8, **_WINDOW),
    causal("gemma3n_text", "Gemma3n", config="Gemma3nText", **GROUPED, head_dim=8, **_WINDOW, **_GEMMA_3N),
    causal(
        "gemma4_text",
        "Gemma4",
        config="Gemma4Text",
        **GROUPED,
        head_dim=8,
        global_head_dim=8,
        **_WINDOW,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
    ),
    causal("phi", "Phi", **GROUPED),
    causal("phi3", "Phi3", **GROUPED),
    replace(causal("gpt2", "GPT2"), make=made("GPT2LMHeadModel", "GPT2Config", **_GPT, **_IDS, **_NO_DROPOUT)),
    classifier("gpt2 (classifier)", "GPT2", kind="decoder", **_GPT, **_IDS, **_NO_DROPOUT),
    causal(
        "gpt_neo",
        "GPTNeo",
        **_IDS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        window_size=8,
        attention_types=[[["global", "local"], 1]],
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
    ),
    causal("gptj", "GPTJ", **_GPT, **_IDS, **_NO_DROPOUT, rotary_dim=4),
    causal("codegen", "CodeGen", **_GPT, **_IDS, **_NO_DROPOUT, rotary_dim=4),
    causal("gpt_bigcode", "GPTBigCode", **_GPT, **_IDS, **_NO_DROPOUT),
    causal("gpt_neox", "GPTNeoX", **SMALL),
    causal("falcon", "Falcon", **SMALL, alibi=False, new_decoder_architecture=False),
    causal("bloom", "Bloom", **_IDS, hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY),
    causal("mpt", "Mpt", **_IDS, d_model=32, n_heads=4, n_layers=2, vocab_size=VOCABULARY, max_seq_len=128),
    causal("opt", "OPT", **SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0),
    causal("stablelm", "StableLm", **GROUPED),
    causal("cohere", "Cohere", **GROUPED),
    causal("cohere2", "Cohere2", **GROUPED, head_dim=8, **_WINDOW),
    causal("olmo2", "Olmo2", **GROUPED),
    causal("smollm3", "SmolLM3", **GROUPED),
    causal("granite", "Granite", **GROUPED),
    causal("starcoder2", "Starcoder2", **GROUPED, residual_dropout=0.0, embedding_dropout=0.0),
    causal("glm4", "Glm4", **GROUPED, head_dim=8),
    causal("nemotron", "Nemotron", **GROUPED),
    causal("persimmon", "Persimmon", **SMALL),
    replace(
        causal("openai-gpt", "OpenAIGPT"),
        make=made("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", **_IDS, **_GPT_1, **_NO_DROPOUT),
    ),
    causal(
        "xglm",
        "XGLM",
        **_IDS,
        d_model=32,
        ffn_dim=48,
        num_layers=2,
        attention_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        dropout=0.0,
        attention_dropout=0.0,
    ),
    causal("biogpt", "BioGpt", **SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layerdrop=0.0),
)
