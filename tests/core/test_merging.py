"""A merged adapter is believed only if it computes the same; merged for good, it leaves a plain model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.errors import AdapterStateError, VerificationFailed

from ..shapes import SHAPES, Shape, disturb, logits, method
from .test_adapter import mlp

LLAMA, BERT = SHAPES["llama"], SHAPES["bert"]
MERGED = ["lora", "dora", "oft", "ia3", "norm", "last-layers", "bitfit"]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


# Believing a merge


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_tokens_is_run_and_left_as_it_was(shape: Shape, dtype: torch.dtype) -> None:
    for model in (shape.model(dtype), shape.classifier(dtype)):
        adapter = inlay.attach(model, inlay.LoRA(rank=2))
        disturb(adapter, 0.05)
        model.train()
        model.base_model.eval()
        modes = [m.training for m in model.modules()]
        random = torch.random.get_rng_state()
        assert adapter.merge()
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("name", ["lora", "oft", "loha"])
def test_a_merge_that_computes_something_else_is_undone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BERT.model()
    adapter = inlay.attach(model, method(name, BERT))
    disturb(adapter)
    before = bits(model)
    kind = type(next(iter(adapter.deltas.values())))
    fold = kind.fold
    monkeypatch.setattr(kind, "fold", lambda self, params: {n: p * 1.1 for n, p in fold(self, params).items()})
    y = logits(model, BERT)
    with pytest.raises(VerificationFailed, match="merged, adapter 'default' would compute something else"):
        adapter.merge()
    monkeypatch.undo()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model._inlay.routing.merged is None
    assert torch.equal(logits(model, BERT), y)
    assert adapter.merge()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_merged(value: float) -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    before = bits(model)
    delta: Any = adapter.deltas["model.layers.1.mlp.up_proj"]
    with torch.no_grad():
        delta.lora_B[3, 1] = value
    with pytest.raises(VerificationFailed, match=r"not finite, in lora_B at model\.layers\.1\.mlp\.up_proj"):
        adapter.merge()
    with torch.no_grad():
        delta.lora_B[3, 1] = 0
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items() if "lora_B" not in n)


def test_a_weight_that_the_bases_dtype_cannot_hold_is_not_merged() -> None:
    model = mlp().to(torch.float16)
    adapter = inlay.attach(model, inlay.Pattern(include=(r"first\.weight",)))
    before = bits(model)
    with torch.no_grad():
        next(adapter.parameters())[0, 0] = 1e6
    with pytest.raises(VerificationFailed, match=r"would have numbers that are not finite in torch\.float16"):
        adapter.merge()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items() if "adapters" not in n)


def test_a_model_of_images_needs_a_batch() -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=4
    )
    model = transformers.ViTForImageClassification(config).eval()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    disturb(adapter)
    assert not adapter.merge()
    adapter.unmerge()
    assert adapter.merge({"pixel_values": torch.randn(2, 3, 8, 8)})
    adapter.unmerge()
    with pytest.raises(ValueError, match="image"):  # the model's own, about a batch that it does not take
        adapter.merge({"pixel_values": torch.randn(2, 3, 9, 8)})


def test_merging_makes_active_and_unmerging_leaves_it(shape: Shape) -> None:
    model = shape.model()
    a = inlay.attach(model, inlay.LoRA(rank=2), "a")
    disturb(a)
    y = logits(model, shape)
    disturb(inlay.attach(model, inlay.LoRA(rank=2), "b", heads=()))
    assert a.merge()
    torch.testing.assert_close(logits(model, shape), y, atol=2e-4, rtol=2e-4)  # T5's scores are large
    a.unmerge()
    assert torch.equal(logits(model, shape), y)


# For good


@pytest.mark.parametrize("name", MERGED)
def test_merged_for_good_a_plain_model_is_left(name: str, tmp_path: Path) -> None:
    plain = BERT.classifier()
    flags = {n: i % 2 == 0 for i, (n, _) in enumerate(plain.named_parameters())}
    for n, p in plain.named_parameters():
        p.requires_grad_(flags[n])
    adapter = inlay.attach(plain, method(name, BERT))
    disturb(adapter)
    y = logits(plain, BERT)
    model: Any = adapter.merge_and_detach()
    assert model is plain
    torch.testing.assert_close(logits(model, BERT), y, atol=1e-5, rtol=1e-5)
    assert "_inlay" not in model.__dict__
    assert not inlay.adapters(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.save_pretrained(tmp_path)
    again, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["unexpected_keys"]
    assert not told["missing_keys"]
    assert torch.equal(logits(again.eval(), BERT), logits(model, BERT))
    with pytest.raises(AdapterStateError, match="has no adapters"):
        adapter.merge()
    inlay.attach(model, inlay.LoRA(rank=2)).detach()


def test_a_merged_model_is_saved_as_a_plain_one(tmp_path: Path) -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, method("lora", LLAMA))
    disturb(adapter)
    y, state = logits(model, LLAMA), adapter.state_dict()
    adapter.merge()
    model.save_pretrained(tmp_path)
    plain, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    assert torch.allclose(logits(plain.eval(), LLAMA), y, atol=1e-5)
    adapter.unmerge()
    assert any(".adapters." in key for key in model.state_dict())
    assert all(torch.equal(state[key], t) for key, t in adapter.state_dict().items())


def test_one_that_is_merged_already_can_be_kept() -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    disturb(adapter)
    adapter.merge()
    y = logits(model, LLAMA)
    assert torch.equal(logits(adapter.merge_and_detach(), LLAMA), y)


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "parallel", "prompt", "prefix", "full"])
def test_what_cannot_be_merged_is_refused_and_stays(name: str) -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, method(name, LLAMA))
    disturb(adapter)
    before = bits(model)
    y = logits(model, LLAMA)
    with pytest.raises(AdapterStateError, match="cannot be merged|nothing to merge"):
        adapter.merge_and_detach()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(logits(model, LLAMA), y)


def test_beside_another_it_is_refused() -> None:
    model = LLAMA.model()
    a = inlay.attach(model, inlay.LoRA(rank=2), "a")
    inlay.attach(model, inlay.LoRA(rank=2), "b")
    with pytest.raises(AdapterStateError, match="b would stay beside another base; detach"):
        a.merge_and_detach()
    assert list(inlay.adapters(model)) == ["a", "b"]


# Tied weights


def tied() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**LLAMA.config.to_dict(), "tie_word_embeddings": True})
    model = transformers.LlamaForCausalLM(config).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def test_a_tied_weight_that_is_replaced_everywhere_is_merged_and_stays_tied(tmp_path: Path) -> None:
    model = tied()
    adapter = inlay.attach(model, inlay.Pattern(include=(r"model\.embed_tokens\.weight", r".*norm\.weight")))
    disturb(adapter)
    y = logits(model, LLAMA)
    assert adapter.merge()
    torch.testing.assert_close(logits(model, LLAMA), y, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    model = adapter.merge_and_detach()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, LLAMA), y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", [("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")])
def test_a_tied_weight_that_is_not_is_refused_with_what_to_do(targets: tuple[str, ...]) -> None:
    model = tied()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=targets))
    before = bits(model)
    with pytest.raises(AdapterStateError, match=r"share one weight.*untie them first: set model\.config\.tie_word"):
        adapter.merge()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
