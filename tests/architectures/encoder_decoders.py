"""Models that read a text with an encoder and write another one with a decoder."""

import torch

from .architecture import LABELS, VOCABULARY, Architecture, Batch, classes, ids, made, noise

_HALVES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
    "dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
_T5 = {
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def _texts() -> Batch:
    ids_BT = ids()
    ids_BT[:, -1] = 2
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids(tokens=4, seed=3)}


def _classified() -> Batch:
    batch = _texts()
    batch["input_ids"][:, -1] = 1 if False else batch["input_ids"][:, -1]
    return batch | {"labels": classes()}


def _t5_classified() -> Batch:
    batch = _texts()
    batch["input_ids"][:, -1] = 1  # it pools the end of the text
    return batch | {"labels": classes()}


def _pair(name, stem, settings, blocks=4, **more):
    return Architecture(
        name=name,
        kind="encoder-decoder",
        make=made(f"{stem}ForConditionalGeneration", f"{stem}Config", **settings | more),
        batch=_texts,
        blocks=blocks,
        generates=True,
    )


ENCODER_DECODERS = (
    _pair("t5", "T5", _T5, feed_forward_proj="gated-gelu"),
    Architecture(
        name="t5 (classifier)",
        kind="encoder-decoder",
        make=made("T5ForSequenceClassification", "T5Config", **_T5, num_labels=LABELS),
        batch=_t5_classified,
        blocks=4,
    ),
    _pair("mt5", "MT5", _T5),
    _pair("umt5", "UMT5", _T5),
    _pair(
        "switch_transformers",
        "SwitchTransformers",
        _T5,
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        expert_capacity=64,
    ),
    _pair("bart", "Bart", _HALVES),
    Architecture(
        name="bart (classifier)",
        kind="encoder-decoder",
        make=made("BartForSequenceClassification", "BartConfig", **_HALVES, num_labels=LABELS),
        batch=_classified,
        blocks=4,
    ),
    _pair("mbart", "MBart", _HALVES),
    _pair("m2m_100", "M2M100", _HALVES),
    Architecture(
        name="marian",
        kind="encoder-decoder",
        make=made("MarianMTModel", "MarianConfig", **_HALVES),
        batch=_texts,
        blocks=4,
        generates=True,
    ),
    _pair("pegasus", "Pegasus", _HALVES),
    _pair(
        "led",
        "LED",
        {k: v for k, v in _HALVES.items() if k != "max_position_embeddings"},
        max_encoder_position_embeddings=128,
        max_decoder_position_embeddings=64,
        attention_window=4,
    ),
)


def _speech() -> Batch:
    return {"input_features": noise(3, 8, 32), "labels": ids(tokens=4, seed=3)}


WHISPER = _HALVES | {
    "max_source_positions": 16,
    "max_target_positions": 64,
    "num_mel_bins": 8,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
