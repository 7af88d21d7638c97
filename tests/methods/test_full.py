"""Full fine-tuning trains the base itself, with its small steps kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import inlay
from inlay.errors import AdapterStateError

from ..shapes import SHAPES, Shape, disturb, logits

half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def test_every_parameter_is_trained_and_a_tied_one_counts_once(shape: Shape) -> None:
    model = shape.model()
    own = {n: p for n, p in model.named_parameters()}
    expected = sum(p.numel() for p in model.parameters())
    adapter = inlay.attach(model, inlay.Full())
    assert [id(p) for p in adapter.parameters()] == [id(p) for p in own.values()]
    assert [n for n, _ in adapter.named_parameters()] == list(own)
    assert sum(p.numel() for p in adapter.parameters()) == expected
    assert all(p.requires_grad for p in model.parameters())


def test_tied_weights_stay_tied() -> None:
    model = SHAPES["gpt2"].model(torch.bfloat16)
    adapter = inlay.attach(model, inlay.Full())
    assert model.lm_head.weight is model.transformer.wte.weight
    names = [n for n, _ in adapter.named_parameters()]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    before = logits(model, SHAPES["gpt2"])
    with torch.no_grad():
        model.transformer.wte.weight += 0.5
    assert not torch.allclose(logits(model, SHAPES["gpt2"]), before)


@half
def test_a_base_in_half_precision_gets_float32_parameters_and_computes_as_before(dtype: Any, shape: Shape) -> None:
    model = shape.model(dtype)
    before = {n: p.clone() for n, p in model.named_parameters()}
    y = logits(model, shape)
    inlay.attach(model, inlay.Full())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert list(before) == [n for n, p in model.named_parameters()]
    assert all(torch.equal(p, before[n].float()) for n, p in model.named_parameters())

    seen = []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda m, args, result: seen.append((result.dtype, m.weight.dtype)))
    again = logits(model, shape)
    assert torch.equal(again, y)
    assert {result for result, _ in seen} == {dtype}
    assert {weight for _, weight in seen} == {torch.float32}  # put back as soon as the layer is done
    assert not any({"weight", "bias"} & m.__dict__.keys() for m in model.modules())


def test_gradients_are_float32_and_small_steps_are_kept() -> None:
    shape = SHAPES["llama"]
    model = shape.model(torch.bfloat16)
    start = {n: p.clone() for n, p in model.named_parameters()}
    adapter = inlay.attach(model, inlay.Full())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-6, weight_decay=0)
    logits(model, shape).float().square().mean().backward()
    optimizer.step()
    for n, p in model.named_parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        moved = (p.grad.abs() > 1e-6) & (p.abs() < 4)
        assert (p != start[n].float())[moved].all()
        assert (p.bfloat16() == start[n]).float().mean() > 0.95  # bfloat16 would lose the step


def test_the_whole_model_is_saved_and_loads_into_a_fresh_one(shape: Shape, tmp_path: Path) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.Full())
    disturb(adapter)
    adapter.save(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {k.removeprefix("base_model.model."): t.shape for k, t in saved.items()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    again = shape.model()
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))
    bare = shape.model()
    bare.load_state_dict({k.removeprefix("base_model.model."): t for k, t in saved.items()}, strict=False)
    bare.tie_weights()
    torch.testing.assert_close(logits(bare, shape), logits(model, shape))


@half
def test_a_half_precision_base_saves_float32_and_loads_it(dtype: Any, tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    model = shape.classifier(dtype)
    adapter = inlay.attach(model, inlay.Full())
    disturb(adapter, 1e-5)
    adapter.save(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    again = shape.classifier(dtype)
    inlay.load(again, tmp_path)
    theirs = dict(model.named_parameters())
    assert all(torch.equal(p, theirs[n]) for n, p in again.named_parameters())


def test_it_cannot_be_detached_merged_or_joined() -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.Full(), "all")
    y = logits(model, shape)
    with pytest.raises(AdapterStateError, match="full trained the base model itself, so it cannot be detached; load"):
        adapter.detach()
    with pytest.raises(AdapterStateError, match="full trained the base model itself: there is nothing to merge"):
        adapter.merge()
    with pytest.raises(AdapterStateError, match=r"adapter 'all' \(full\) trains the base itself; it stays alone"):
        inlay.attach(model, inlay.LoRA())
    for names, rows in (((), None), ((), ["all"] * 4)):
        with pytest.raises(AdapterStateError, match=r"'all' \(full\) trained the base itself; the base is gone"):
            with inlay.using(model, *names, rows=rows):
                pass
    with inlay.using(model, "all"):
        assert torch.equal(logits(model, shape), y)
    assert inlay.adapters(model) == {"all": adapter}


def test_a_frozen_base_is_unfrozen() -> None:
    model = SHAPES["llama"].model().requires_grad_(False)
    inlay.attach(model, inlay.Full())
    assert all(p.requires_grad for p in model.parameters())
