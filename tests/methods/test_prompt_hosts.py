"""Which module a prompt joins, what is refused, and that whoever calls the model gets the prompt."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t

import inlay
from inlay.errors import AdapterStateError, TargetError

from ..shapes import SHAPES, disturb
from .prompt_models import DECODERS, made

pytestmark = pytest.mark.filterwarnings("ignore")

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "pad_token_id": 0,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_AUDIO = {
    "conv_dim": (8, 8),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_PARTS: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
}

WITHOUT_TEXT: dict[str, Callable[[], Any]] = {
    "whisper": lambda: t.WhisperForConditionalGeneration(
        t.WhisperConfig(**_PARTS, num_mel_bins=8, max_source_positions=20, pad_token_id=0, decoder_start_token_id=3)
    ),
    "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=_TEXT, vision_config=_VISION)),
    "clip text": lambda: t.CLIPTextModel(t.CLIPTextConfig(**_TEXT)),
    "wav2vec2": lambda: t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**_TEXT, **_AUDIO)),
    "segformer": lambda: t.SegformerForImageClassification(
        t.SegformerConfig(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], num_attention_heads=[1, 2]
        )
    ),
    "swin": lambda: t.SwinForImageClassification(
        t.SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    ),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**_VISION)),
    "no model of text": lambda: torch.nn.Sequential(torch.nn.Linear(4, 4)),
}


@pytest.mark.parametrize("name", WITHOUT_TEXT)
@pytest.mark.parametrize("method", ["prompt", "p-tuning", "multitask-prompt", "prefix"])
def test_a_model_that_reads_no_text_is_refused_before_anything_changes(name: str, method: str) -> None:
    model = WITHOUT_TEXT[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(TargetError, match="has no token embeddings that a prompt could join"):
        inlay.attach(model, inlay.METHODS[method](tokens=4))
    assert not inlay.adapters(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_result_of_fewer_positions_is_refused() -> None:
    config = t.FunnelConfig(vocab_size=60, d_model=32, n_head=4, d_head=8, d_inner=48, block_sizes=[1, 1])
    model = t.FunnelForSequenceClassification(config).eval()
    inlay.attach(model, inlay.PromptTuning(tokens=4))
    with pytest.raises(AdapterStateError, match="FunnelBaseModel gives 6 positions for 12"):
        model(input_ids=torch.arange(3, 11)[None])


IMAGE = 57
WITH_IMAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "gemma3": (
        lambda: t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                text_config=_TEXT
                | {
                    "num_key_value_heads": 2,
                    "head_dim": 8,
                    "sliding_window": 6,
                    "layer_types": ["sliding_attention", "full_attention"],
                },
                vision_config=_VISION,
                mm_tokens_per_image=4,
                image_token_index=IMAGE,
            )
        ),
        "model",
    ),
    "llava": (
        lambda: t.LlavaForConditionalGeneration(
            t.LlavaConfig(
                text_config=t.LlamaConfig(**_TEXT), vision_config=t.CLIPVisionConfig(**_VISION), image_token_id=IMAGE
            )
        ),
        "model.language_model",
    ),
    "qwen3_vl": (
        lambda: t.Qwen3VLForConditionalGeneration(
            t.Qwen3VLConfig(
                text_config=_TEXT
                | {
                    "num_key_value_heads": 2,
                    "head_dim": 8,
                    "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4},
                },
                vision_config={
                    "depth": 1,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_heads": 4,
                    "out_hidden_size": 32,
                    "patch_size": 8,
                    "num_position_embeddings": 16,
                    "deepstack_visual_indexes": [0],
                },
                image_token_id=IMAGE,
                video_token_id=56,
                vision_start_token_id=55,
                vision_end_token_id=54,
            )
        ),
        "model.language_model",
    ),
}


@pytest.mark.parametrize("name", WITH_IMAGES)
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_the_language_model_beside_other_towers_reads_it(name: str, method: str) -> None:
    build, host = WITH_IMAGES[name]
    model = made(build)
    ids_BT = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    adapter = inlay.attach(model, inlay.METHODS[method](tokens=4))
    disturb(adapter, 0.3)
    assert next(iter(adapter.deltas)) == (host if method == "prompt" else "model.language_model")
    assert not any("vision" in name or "visual" in name for name in adapter.deltas)
    y = model(**given).logits
    padded = {key: torch.cat([tensor.new_zeros(2, 5), tensor], 1) for key, tensor in given.items()}
    torch.testing.assert_close(model(**padded).logits[:, 5:], y, atol=1e-5, rtol=1e-5)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    settings["suppress_tokens"] = [0, 54, 55, 56, IMAGE]
    assert torch.equal(model.generate(**given, **settings), model.generate(**given, **settings, use_cache=False))
    y.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


def test_images_stay_where_they_are_in_the_text() -> None:
    model = made(WITH_IMAGES["gemma3"][0])
    ids_BT = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    types_BT = torch.zeros_like(ids_BT)
    ids_BT[:, 2:6], types_BT[:, 2:6] = IMAGE, 1
    images = torch.randn(2, 3, 16, 16)
    ids = torch.cat([torch.tensor([[7, 8, 9, 10]] * 2), ids_BT], 1)
    typed = model(
        input_ids=ids, token_type_ids=torch.cat([types_BT[:, :1].repeat(1, 4), types_BT], 1), pixel_values=images
    )
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=4))
    with torch.no_grad():
        next(adapter.parameters()).copy_(model.get_input_embeddings()(ids[0, :4]))
    y = model(input_ids=ids_BT, token_type_ids=types_BT, pixel_values=images).logits
    torch.testing.assert_close(y, typed.logits[:, 4:], atol=1e-5, rtol=1e-5)


# Callers that go past the hooks


@pytest.mark.parametrize("method", ["prompt", "p-tuning", "multitask-prompt", "prefix"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_caller_that_enters_by_forward_gets_the_prompt(method: str, whole: bool) -> None:
    shape = SHAPES["bert"]
    model = shape.model()
    body, given = (model if whole else model.bert), shape.inputs()
    signature = str(inspect.signature(body.forward))
    adapter = inlay.attach(body, inlay.METHODS[method](tokens=4))
    disturb(adapter, 0.3)
    y = body(**given)[0]
    assert torch.equal(body.forward(**given)[0], y)
    assert torch.equal(body.forward(given["input_ids"], given["attention_mask"])[0], y)
    assert str(inspect.signature(body.forward)) == signature
    twin = copy.deepcopy(body)
    disturb(inlay.adapters(twin)["default"], 0.3)
    assert not torch.allclose(twin.forward(**given)[0], y, atol=1e-3)
    assert torch.equal(body.forward(**given)[0], y)

    inlay.attach(body, inlay.METHODS[method](tokens=3), "b")
    z = body(**given)[0]
    assert torch.equal(body.forward(**given)[0], z)
    with inlay.using(body):
        base = body(**given)[0]
        assert torch.equal(body.forward(**given)[0], base)
        assert not torch.allclose(base, y, atol=1e-3)
    adapter.detach()
    assert torch.equal(body.forward(**given)[0], base if not inlay.adapters(body) else body(**given)[0])
    inlay.adapters(body)["b"].detach()
    assert torch.equal(body.forward(**given)[0], base)
    assert "forward" not in vars(body)


def test_sentence_transformers_embeddings_change(tmp_path: Any) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from ..tiny_models import save_tiny_model

    folder = save_tiny_model(SHAPES["bert"], tmp_path)
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    texts = ["the film was good", "bad"]
    before = model.encode(texts)
    body = model[0].model if hasattr(model[0], "model") else model[0].auto_model
    for method in ("prompt", "prefix"):
        adapter = inlay.attach(body, inlay.METHODS[method](tokens=4))
        disturb(adapter, 0.3)
        assert abs(model.encode(texts) - before).max() > 1e-3
        adapter.detach()
        assert (model.encode(texts) == before).all()


@pytest.mark.parametrize("name", ["mamba", "gemma3", "gptj", "qwen3_5"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_one_row_of_a_batch_cannot_have_it_alone(name: str, method: str) -> None:
    if (name, method) == ("mamba", "prefix"):
        with pytest.raises(TargetError):
            inlay.attach(made(DECODERS[name]), inlay.PrefixTuning(tokens=4))
        return
    model = made(DECODERS[name])
    inlay.attach(model, inlay.METHODS[method](tokens=4))
    with pytest.raises(AdapterStateError, match="cannot serve single rows of a batch"):
        with inlay.using(model, rows=["default", None]):
            pass
