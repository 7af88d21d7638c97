"""Adapters kept to a part of a model, and the heads of classes that have no base model beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file
from torch import Tensor, nn

import inlay
from inlay.errors import TargetError
from inlay.models.language_model import language_model
from inlay.models.sites import Sites, shortest_suffixes

from ..shapes import disturb

WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def vision_language() -> Any:
    torch.manual_seed(0)
    config = t.Gemma3Config(
        text_config=dict(WIDTHS, num_key_value_heads=2, head_dim=8, vocab_size=60),
        vision_config=dict(WIDTHS, image_size=16, patch_size=8),
        mm_tokens_per_image=1,
        image_token_index=5,
        boi_token_index=3,
        eoi_token_index=4,
    )
    return t.Gemma3ForConditionalGeneration(config).eval()


def texts() -> dict[str, Tensor]:
    ids_BT = torch.randint(6, 60, (2, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


def test_the_language_model_is_what_holds_the_token_embeddings_beside_other_towers() -> None:
    assert language_model(vision_language()) == "model.language_model"
    assert language_model(t.LlamaForCausalLM(t.LlamaConfig(**WIDTHS, vocab_size=50))) is None
    assert language_model(nn.Linear(2, 2)) is None
    pair = t.EncoderDecoderConfig.from_encoder_decoder_configs(
        t.BertConfig(**WIDTHS, vocab_size=50), t.BertConfig(**WIDTHS, vocab_size=50)
    )
    assert language_model(t.EncoderDecoderModel(pair)) is None  # both halves read texts


@pytest.mark.parametrize("method", [inlay.PrefixTuning(tokens=2), inlay.PromptTuning(tokens=2)])
def test_what_precedes_the_text_does_not_reach_the_other_towers(method: Any) -> None:
    model = vision_language()
    found = inlay.attach(model, method, part=language_model(model)).coverage
    own = sum(p.numel() for p in model.model.language_model.parameters() if not p.requires_grad)
    assert found.share == pytest.approx(own / sum(p.numel() for p in model.model.parameters() if not p.requires_grad))
    assert [g.reason for g in found.left_out] == ["outside model.language_model, to which the adapter is kept"]


METHODS = ["full", "norm", "last-layers", "sparse", "houlsby", "pfeiffer", "parallel", "ia3", "lora", "dora", "vera"]


@pytest.mark.parametrize("name", METHODS)
def test_kept_to_the_language_model_every_parameter_learns_from_texts(name: str, tmp_path: Path) -> None:
    model = vision_language()
    adapter = inlay.attach(model, inlay.METHODS[name](), part=language_model(model))
    assert adapter.part == "model.language_model"
    assert not [host for host in adapter.deltas if "vision" in host or "projector" in host]
    disturb(adapter, 0.05)
    y = model(**texts()).logits
    y.square().mean().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert ("part" in config) == config["peft_type"].startswith("INLAY_")
    other = vision_language()
    loaded = inlay.load(other, tmp_path)
    assert loaded.deltas.keys() == adapter.deltas.keys()
    assert loaded.base_fingerprint == adapter.base_fingerprint
    torch.testing.assert_close(other(**texts()).logits, y)


def test_without_a_part_the_whole_model_is_meant() -> None:
    model = vision_language()
    assert inlay.attach(model, inlay.LoRA(rank=2)).part is None
    assert [n for n in inlay.adapters(model)["default"].deltas if "vision_tower" in n]


def test_names_outside_the_part_are_refused() -> None:
    model = vision_language()
    with pytest.raises(TargetError, match=r"'fc1' matches only .*vision_tower.*fc1, which lies outside model\.lang"):
        inlay.attach(model, inlay.LoRA(targets="fc1"), part="model.language_model")
    with pytest.raises(TargetError, match=r"part 'model\.langage_model' is no module of .*; did you mean model\.lang"):
        inlay.attach(model, inlay.LoRA(), part="model.langage_model")
    assert not inlay.adapters(model)


def test_the_names_in_a_file_of_peft_s_match_nothing_in_the_other_towers() -> None:
    model = vision_language()
    hosts = Sites(model, part="model.language_model").find(("all-linear",))
    suffixes = shortest_suffixes(model, hosts)
    assert Sites(model).find(tuple(suffixes)) == hosts


# Heads of classes that are their own base

VISION = dict(WIDTHS, image_size=16, patch_size=8)


def images(size: int = 16) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))}


def choices() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 50, (2, 3, 6), generator=torch.Generator().manual_seed(1))}


WAV2VEC2 = dict(
    WIDTHS,
    conv_dim=(16, 16),
    conv_stride=(5, 4),
    conv_kernel=(10, 8),
    num_conv_pos_embedding_groups=4,
    vocab_size=40,
    classifier_proj_size=16,
    mask_time_prob=0.0,
    use_weighted_layer_sum=True,
)
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 50,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "use_weighted_layer_sum": True,
    "classifier_proj_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
SWIN = t.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=2, window_size=4)

HEADS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]], tuple[str, ...]]] = {
    "clip": (
        lambda: t.CLIPForImageClassification(t.CLIPConfig(vision_config=VISION, text_config=WIDTHS)),
        images,
        ("classifier",),
    ),
    "siglip": (
        lambda: t.SiglipForImageClassification(t.SiglipConfig(vision_config=VISION, text_config=WIDTHS)),
        images,
        ("classifier",),
    ),
    "dinov2": (lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**VISION)), images, ("classifier",)),
    "whisper": (
        lambda: t.WhisperForAudioClassification(t.WhisperConfig(**WHISPER)),
        lambda: {"input_features": torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))},
        ("", "projector", "classifier"),
    ),
    "wav2vec2": (
        lambda: t.Wav2Vec2ForSequenceClassification(t.Wav2Vec2Config(**WAV2VEC2)),
        lambda: {"input_values": torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))},
        ("", "projector", "classifier"),
    ),
    "gpt2 double": (lambda: t.GPT2DoubleHeadsModel(t.GPT2Config(**GPT)), choices, ("multiple_choice_head",)),
    "gpt1 double": (lambda: t.OpenAIGPTDoubleHeadsModel(t.OpenAIGPTConfig(**GPT)), choices, ("multiple_choice_head",)),
    "upernet": (
        lambda: t.UperNetForSemanticSegmentation(
            t.UperNetConfig(backbone_config=SWIN, hidden_size=16, pool_scales=[1, 2], use_auxiliary_head=False)
        ),
        lambda: images(32),
        ("decode_head",),
    ),
}


@pytest.mark.parametrize("method", [inlay.LoRA(rank=2), inlay.LastLayers(layers=1)], ids=lambda m: m.name)
@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_found_trained_saved_and_loaded(name: str, method: Any, tmp_path: Path) -> None:
    make, inputs, heads = HEADS[name]
    torch.manual_seed(0)
    model = make().eval()
    adapter = inlay.attach(model, method)
    assert adapter.heads == heads
    disturb(adapter)
    named = dict(adapter.named_parameters())
    y = _logits(model, inputs())
    y.square().mean().backward()
    assert all(
        p.grad is not None for n, p in named.items() if Sites(model).in_head(n.rpartition(".")[0]) or "." not in n
    )
    adapter.save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert ("" in heads) == ("base_model.model.layer_weights" in tensors)
    torch.manual_seed(0)
    other = make().eval()
    with torch.no_grad():  # a new head is not the one that was trained
        for head in heads:
            for p in other.get_submodule(head).parameters(recurse=bool(head)):
                p.normal_()
    inlay.load(other, tmp_path)
    assert torch.equal(_logits(other, inputs()), y)
    adapter.detach()


def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(2)
    return torch.cat([v.flatten() for k, v in model(**inputs).items() if "logits" in k])


@pytest.mark.parametrize(
    "make",
    [
        lambda: t.CLIPModel(t.CLIPConfig(vision_config=VISION, text_config=WIDTHS)),
        lambda: t.ViTModel(t.ViTConfig(**VISION)),
        lambda: t.BertForMaskedLM(t.BertConfig(**WIDTHS, vocab_size=50)),
        lambda: t.BertForPreTraining(t.BertConfig(**WIDTHS, vocab_size=50)),
        lambda: t.DistilBertForMaskedLM(t.DistilBertConfig(dim=32, hidden_dim=48, n_layers=1, n_heads=4)),
        lambda: t.ElectraForMaskedLM(t.ElectraConfig(**WIDTHS, vocab_size=50)),
        lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT)),
        lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(**WHISPER)),
        vision_language,
    ],
)
def test_what_is_pretrained_whole_has_no_heads(make: Callable[[], Any]) -> None:
    assert Sites(make()).heads == ()
