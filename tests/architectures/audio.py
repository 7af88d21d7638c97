"""Models of sound."""

from .architecture import LABELS, ROWS, SMALL, Architecture, Batch, classes, ids, made, noise
from .encoder_decoders import WHISPER, _speech

_WAVE = {
    **{
        k: SMALL[k]
        for k in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "pad_token_id",
            "bos_token_id",
            "eos_token_id",
        )
    },
    "conv_dim": [8, 8],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "classifier_proj_size": 16,
}


def _waves() -> Batch:
    return {"input_values": noise(ROWS, 400), "labels": classes()}


def _said() -> Batch:
    return {"input_values": noise(ROWS, 400), "labels": ids(tokens=4, seed=3)}


def _spectra() -> Batch:
    return {"input_features": noise(ROWS, 8, 32), "labels": classes()}


def _pictures() -> Batch:
    return {"input_values": noise(ROWS, 32, 16), "labels": classes()}


def _sound(name, make, batch, blocks, generates=False):
    return Architecture(
        name=name, kind="audio", make=make, batch=batch, blocks=blocks, texts=False, generates=generates
    )


AUDIO = (
    _sound("whisper", made("WhisperForConditionalGeneration", "WhisperConfig", **WHISPER), _speech, 4, True),
    _sound(
        "whisper (classifier)",
        made(
            "WhisperForAudioClassification",
            "WhisperConfig",
            **WHISPER,
            num_labels=LABELS,
            use_weighted_layer_sum=True,
            classifier_proj_size=16,
        ),
        _spectra,
        2,
    ),
    _sound(
        "wav2vec2 (classifier)",
        made(
            "Wav2Vec2ForSequenceClassification",
            "Wav2Vec2Config",
            **_WAVE,
            num_labels=LABELS,
            use_weighted_layer_sum=True,
        ),
        _waves,
        2,
    ),
    _sound("wav2vec2 (ctc)", made("Wav2Vec2ForCTC", "Wav2Vec2Config", **_WAVE), _said, 2),
    _sound(
        "hubert (classifier)",
        made("HubertForSequenceClassification", "HubertConfig", **_WAVE, num_labels=LABELS),
        _waves,
        2,
    ),
    _sound(
        "wavlm (classifier)",
        made("WavLMForSequenceClassification", "WavLMConfig", **_WAVE, num_labels=LABELS),
        _waves,
        2,
    ),
    _sound(
        "audio-spectrogram-transformer",
        made(
            "ASTForAudioClassification",
            "ASTConfig",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=8,
            frequency_stride=8,
            time_stride=8,
            max_length=32,
            num_mel_bins=16,
            num_labels=LABELS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        _pictures,
        2,
    ),
)
