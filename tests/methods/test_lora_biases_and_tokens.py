"""What a LoRA may train beside its two matrices: biases of the base, one of B, and rows of the token embedding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inlay
from inlay.errors import AdapterStateError
from inlay.lab.rank.updates import updates_of

from ..quantized_models import WIDE, dequantized, gradients, quantized, same
from ..shapes import ROWS, SHAPES, disturb, logits

SETTINGS: dict[str, dict[str, Any]] = {
    "biases of its layers": {"bias": "adapted"},
    "all biases": {"bias": "all"},
    "bias of B": {"change_bias": True},
    "tokens": {"tokens": (3, 9, 11)},
    "all": {"bias": "all", "change_bias": True, "tokens": (3, 9, 11)},
}
each_setting = pytest.mark.parametrize("more", SETTINGS.values(), ids=SETTINGS)
each_method = pytest.mark.parametrize("method", [inlay.LoRA, inlay.METHODS["dora"]], ids=["lora", "dora"])
each_shape = pytest.mark.parametrize("shape", [SHAPES["gpt2"], SHAPES["bert"]], ids=["tied", "apart"])


@each_setting
@each_method
@each_shape
def test_it_starts_as_the_base_and_is_saved_merged_and_taken_away(
    shape: Any, method: Any, more: dict[str, Any], tmp_path: Path
) -> None:
    model = shape.model()
    base = logits(model, shape)
    adapter = inlay.attach(model, method(rank=2, **more))
    close(logits(model, shape), base)
    disturb(adapter)
    expected = logits(model, shape)
    assert (expected - base).abs().max() > 0.1
    adapter.save(tmp_path)
    again = shape.model()
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), expected)
    adapter.merge()
    close(logits(model, shape), expected)
    adapter.unmerge()
    assert torch.equal(logits(model, shape), expected)
    adapter.detach()
    assert torch.equal(logits(model, shape), base)


def test_rows_of_tied_embeddings_are_merged_into_both() -> None:
    shape = SHAPES["gpt2"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, tokens=(3, 9)))
    disturb(adapter)
    expected = logits(model, shape)
    adapter.merge_and_detach()
    close(logits(model, shape), expected)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.state_dict().keys() == shape.model().state_dict().keys()


@pytest.mark.parametrize("name", ["biases of its layers", "bias of B", "tokens"])
def test_rows_of_a_batch_have_them_apart(name: str) -> None:
    shape = SHAPES["gpt2"]
    model = shape.model()
    for each, method in (("a", inlay.LoRA(rank=2, **SETTINGS[name])), ("b", inlay.LoRA(rank=3))):
        disturb(inlay.attach(model, method, name=each))

    def alone(*names: str) -> Tensor:
        with inlay.using(model, *names):
            return logits(model, shape)

    with inlay.using(model, rows=["a", "b", None, "a"]):
        mixed = logits(model, shape)
    a, b, base = alone("a"), alone("b"), alone()
    assert ROWS == 4
    close(mixed, torch.stack([a[0], b[1], base[2], a[3]]))


@each_setting
@each_method
def test_on_a_base_in_4_bits_it_is_what_it_is_on_a_plain_one(method: Any, more: dict[str, Any], tmp_path: Path) -> None:
    shape = WIDE["bert"]
    torch.manual_seed(0)
    ours = inlay.attach(quantized(shape), method(rank=2, **more))
    plain = inlay.attach(dequantized(shape), method(rank=2, **more))
    disturb(ours)
    plain.load_state_dict(ours.state_dict())
    expected = logits(ours.model, shape)
    close(expected, logits(plain.model, shape))
    same(gradients(ours, shape), gradients(plain, shape), 1e-4)
    ours.save(tmp_path)
    again = quantized(shape)
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), expected)
    with pytest.raises(AdapterStateError, match="cannot hold a merged weight"):
        ours.merge()
    assert torch.equal(logits(ours.model, shape), expected)


@each_setting
def test_the_analysis_of_ranks_sees_each_change_as_it_is_merged(more: dict[str, Any]) -> None:
    shape = SHAPES["bert"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, **more))
    disturb(adapter)
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = {f"{name}.weight": update.tuned() - update.base() for name, update in updates_of(adapter).layers.items()}
    adapter.merge()
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and "classifier" not in n}
    assert found.keys() == {name for name, p in matrices.items() if not torch.equal(p, before[name])}
    for name, change in found.items():
        close(change.float(), matrices[name] - before[name])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
