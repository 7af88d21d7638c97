"""Tiny models of many kinds: with states, windows, biases for distances, positions of ids, embeddings of each layer."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS = _BASE | {"head_dim": 8}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_STATE = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 60}
_PER_LAYER = _HEADS | {
    "vocab_size_per_layer_input": 60,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 128}
_ENCODER = {k: v for k, v in _BASE.items() if "token_id" not in k and "key_value" not in k} | {"pad_token_id": 1}

DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_HEADS)),
    "llama4": lambda: t.Llama4ForCausalLM(
        t.Llama4TextConfig(**_HEADS, intermediate_size_mlp=48, interleave_moe_layer_step=1, num_local_experts=4)
    ),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_HEADS, sliding_window=6)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**_HEADS, sliding_window=6)),
    "gemma3": lambda: t.Gemma3ForCausalLM(
        t.Gemma3TextConfig(**_HEADS, sliding_window=6, layer_types=["sliding_attention", "full_attention"])
    ),
    "gpt_oss": lambda: t.GptOssForCausalLM(
        t.GptOssConfig(**_HEADS, sliding_window=6, num_local_experts=4, num_experts_per_tok=2)
    ),
    "gemma3n": lambda: t.Gemma3nForCausalLM(
        t.Gemma3nTextConfig(
            **_PER_LAYER | {"intermediate_size": [48, 48]},
            laurel_rank=4,
            altup_num_inputs=2,
            activation_sparsity_pattern=[0.0, 0.0],
        )
    ),
    "gemma4": lambda: t.Gemma4ForCausalLM(t.Gemma4TextConfig(**_PER_LAYER, global_head_dim=8)),
    "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(**_STATE)),
    "mamba2": lambda: t.Mamba2ForCausalLM(t.Mamba2Config(**_STATE, num_heads=8, head_dim=8, n_groups=2, chunk_size=8)),
    "lfm2": lambda: t.Lfm2ForCausalLM(t.Lfm2Config(**_HEADS, layer_types=["conv", "full_attention"])),
    "jamba": lambda: t.JambaForCausalLM(
        t.JambaConfig(
            **_BASE, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, use_mamba_kernels=False
        )
    ),
    "qwen3_next": lambda: t.Qwen3NextForCausalLM(t.Qwen3NextConfig(**_HEADS, **_LINEAR, mlp_only_layers=[0, 1])),
    "qwen3_5": lambda: t.Qwen3_5ForCausalLM(t.Qwen3_5TextConfig(**_HEADS, **_LINEAR)),
    "falcon_h1": lambda: t.FalconH1ForCausalLM(
        t.FalconH1Config(
            **_HEADS,
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_d_state=4,
            mamba_n_groups=1,
            mamba_chunk_size=8,
        )
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**_GPT)),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=60,
            word_embed_proj_dim=32,
            max_position_embeddings=128,
        )
    ),
    "gptj": lambda: t.GPTJForCausalLM(t.GPTJConfig(**_GPT, rotary_dim=4)),
    "codegen": lambda: t.CodeGenForCausalLM(t.CodeGenConfig(**_GPT, rotary_dim=4)),
    "gpt_neo": lambda: t.GPTNeoForCausalLM(
        t.GPTNeoConfig(
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            vocab_size=60,
            max_position_embeddings=128,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
        )
    ),
    "falcon": lambda: t.FalconForCausalLM(
        t.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=60)
    ),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(hidden_size=32, n_head=4, n_layer=2, vocab_size=60)),
    "mpt": lambda: t.MptForCausalLM(t.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=60, max_seq_len=128)),
}
ABSOLUTE = {"gpt2", "gpt_neo", "gptj", "codegen"}  # they need positions to tell a row from its padding
STATES = {"mamba", "mamba2"}  # no attention at all
WINDOWS = ("mistral", "gemma2", "gemma3", "gpt_oss")
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**_ENCODER)),
    "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**_ENCODER)),
    "xlm_roberta": lambda: t.XLMRobertaForSequenceClassification(t.XLMRobertaConfig(**_ENCODER)),
    "mpnet": lambda: t.MPNetForSequenceClassification(t.MPNetConfig(**_ENCODER)),
    "deberta_v2": lambda: t.DebertaV2ForSequenceClassification(t.DebertaV2Config(**_ENCODER)),
    "gpt2": lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**_GPT, pad_token_id=0)),
    "llama": lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**_HEADS)),
}
FIRST_READ = {"roberta", "xlm_roberta", "mpnet", "deberta_v2"}  # the head reads the first position


def made(build: Callable[[], Any]) -> Any:
    """The model in evaluation mode, with every parameter moved from its start."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim:
                p.add_(0.1 * torch.randn_like(p))
    return model
