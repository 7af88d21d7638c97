"""Every method on a base in 4 bits: it computes and learns what it does on a plain base with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import inlay
from inlay.bases.quantized import quantize
from inlay.errors import AdapterStateError, TargetError

from .quantized_models import (
    TRAIN_PACKED,
    WIDE,
    attached,
    close,
    dequantized,
    every_method,
    gradients,
    packed_layers,
    quantized,
    same,
    two_shapes,
)
from .shapes import LABELS, ROWS, Shape, logits, method


@two_shapes
@every_method
def test_starts_as_the_quantized_base(name: str, shape: Shape) -> None:
    model = quantized(shape)
    before = logits(model, shape)
    bits = {n: layer.weight.clone() for n, layer in packed_layers(model)}
    adapter = inlay.attach(model, method(name, shape))
    if adapter.method.virtual_tokens == 0:
        close(logits(model, shape), before, 1e-6)
    with inlay.using(model):
        assert torch.equal(logits(model, shape), before)
    assert all(torch.equal(layer.weight, bits[n]) for n, layer in packed_layers(model))


@two_shapes
@every_method
def test_outputs_and_gradients_are_those_on_a_plain_base_with_the_same_weights(name: str, shape: Shape) -> None:
    ours, plain = attached(name, shape, quantized(shape)), attached(name, shape, dequantized(shape))
    plain.load_state_dict(ours.state_dict())
    close(logits(ours.model, shape), logits(plain.model, shape), 1e-5)
    same(gradients(ours, shape), gradients(plain, shape), 1e-4)


@two_shapes
@every_method
def test_a_few_steps_in_bfloat16_lower_the_loss(name: str, shape: Shape) -> None:
    model = quantized(shape, torch.bfloat16).train()
    others = {p.dtype for p in model.parameters()} - {torch.uint8}
    assert others == {torch.bfloat16}
    adapter = inlay.attach(model, method(name, shape))
    optimizer = torch.optim.AdamW(adapter.method.parameter_groups(adapter, 1e-2), weight_decay=0)
    wanted = torch.arange(ROWS) % LABELS if shape.name == "bert" else shape.inputs()["input_ids"].flatten()
    losses = []
    for _ in range(8):
        y = logits(model, shape)
        loss = F.cross_entropy(y.float().view(-1, y.shape[-1]), wanted)
        loss.backward()
        assert all(p.grad is not None for p in adapter.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


@two_shapes
@every_method
def test_an_evaluation_takes_nothing_from_later_gradients(name: str, shape: Shape) -> None:
    """Bitsandbytes would repack the weights in it, on some processors; layers would no longer pass gradients on."""
    adapter = attached(name, shape, quantized(shape).train())
    before = gradients(adapter, shape)
    adapter.model.eval()
    with torch.no_grad():
        logits(adapter.model, shape)
    adapter.model.train()
    after = gradients(adapter, shape)
    assert all(torch.equal(after[n], gradient) for n, gradient in before.items())


@two_shapes
@every_method
def test_saved_and_loaded_on_a_quantized_base_it_gives_the_same_output(name: str, shape: Shape, tmp_path: Path) -> None:
    model, again = quantized(shape), quantized(shape)
    attached(name, shape, model).save(tmp_path)
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))


@two_shapes
@every_method
def test_merging_into_packed_weights_is_refused_and_changes_nothing(name: str, shape: Shape) -> None:
    model = quantized(shape)
    adapter = attached(name, shape, model)
    adapted = logits(model, shape)
    if (shape.name, name) in (("llama", "norm"), ("bert", "norm"), ("bert", "bitfit")):
        adapter.merge()  # none of what they change is packed
        close(logits(model, shape), adapted, 1e-5)
        return
    with pytest.raises(AdapterStateError, match="cannot hold a merged weight|changes activations|no bias to merge"):
        adapter.merge()
    assert torch.equal(logits(model, shape), adapted)


@two_shapes
@every_method
def test_gradient_checkpointing_gives_the_same_gradients(name: str, shape: Shape) -> None:
    found = []
    for checkpointing in (False, True):
        model = quantized(shape).train()
        adapter = attached(name, shape, model)
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        found.append(gradients(adapter, shape, use_cache=False))
    same(found[1], found[0], 1e-6)


@two_shapes
@pytest.mark.parametrize("name", TRAIN_PACKED)
@pytest.mark.parametrize("values", [True, False], ids=["loaded", "empty"])
def test_what_trains_packed_weights_is_refused_and_changes_nothing(name: str, shape: Shape, values: bool) -> None:
    with torch.device("cpu" if values else "meta"):
        model: Any = shape.model_class(shape.config)
    quantize(model, torch.float32)
    wanted = {n: p.requires_grad for n, p in model.named_parameters()}
    with pytest.raises(TargetError, match="is quantized|is packed"):
        inlay.attach(model, method(name, shape))
    assert not inlay.adapters(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == wanted
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@two_shapes
@every_method
def test_a_quantized_model_without_values_tells_the_same_count(name: str, shape: Shape) -> None:
    with torch.device("meta"):
        empty: Any = shape.model_class(shape.config)
    quantize(empty, torch.float32)
    planned = inlay.attach(empty, method(name, shape))
    real = inlay.attach(quantized(shape), method(name, shape))
    assert [(n, p.shape) for n, p in planned.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]


@pytest.mark.parametrize("initialization", ["pissa", "olora", "eva"])
def test_starts_that_look_at_weights_or_inputs_are_those_of_the_plain_base(initialization: Any) -> None:
    shape = WIDE["llama"]
    found = []
    for model in (quantized(shape), dequantized(shape)):
        torch.manual_seed(0)
        adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization=initialization))
        adapter.method.initialize_from_data(adapter, iter([shape.inputs()]))
        found.append((adapter.state_dict(), logits(model, shape)))
    same(found[0][0], found[1][0], 1e-4)
    close(found[0][1], found[1][1], 1e-5)


def test_the_entries_with_most_fisher_information_are_those_of_the_plain_base() -> None:
    shape, chosen = WIDE["bert"], []
    for model in (quantized(shape), dequantized(shape)):
        torch.manual_seed(0)
        adapter = inlay.attach(model, inlay.METHODS["sparse"](rank=1))
        adapter.method.initialize_from_data(adapter, iter([shape.inputs() | {"labels": torch.tensor([0, 2, 1, 1])}]))
        chosen.append({n: t for n, t in adapter.state_dict().items() if n.endswith("indices")})
    assert all(torch.equal(indices, chosen[1][n]) for n, indices in chosen[0].items())
