"""BitFit trains every bias, and only those."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Qwen2Config, Qwen2ForCausalLM

import inlay
from inlay.errors import TargetError
from inlay.models.sites import Sites

from ..architectures import build, inputs
from ..shapes import BERT, SHAPES, Shape, disturb, logits


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_it_trains_the_biases_that_there_are_and_the_head(name: str) -> None:
    model = SHAPES[name].classifier()
    names = [n for n, _ in model.named_parameters()]
    head = Sites(model).heads[0] + "."
    expected = {n for n in names if n.endswith(".bias") and not n.startswith(head)}
    adapter = inlay.attach(model, inlay.BitFit())
    found = {n for n, _ in adapter.named_parameters()}
    assert {n for n in found if not n.startswith(head)} == expected
    assert {n for n in found if n.startswith(head)} == {n for n in names if n.startswith(head)}
    assert inlay.attach(SHAPES[name].classifier(), inlay.BitFit(add_missing=True)).state_dict().keys() == found


def test_the_count_in_bert_is_the_formula() -> None:
    """Per layer 4d for q, k, v and o, d for each norm, d_ff and d for the feed-forward; d each for norm and pooler."""
    d, d_ff, layers, labels = BERT.hidden_size, BERT.intermediate_size, BERT.num_hidden_layers, BERT.num_labels
    adapter = inlay.attach(SHAPES["bert"].classifier(), inlay.BitFit())
    count = sum(p.numel() for p in adapter.parameters())
    assert count == layers * (4 * d + d + d_ff + d + d) + d + d + (d * labels + labels)


def test_the_count_in_bert_base_is_the_published_one() -> None:
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    adapter = inlay.attach(model, inlay.BitFit(), heads=())
    assert sum(p.numel() for p in adapter.parameters()) == 102_912


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_it_equals_a_copy_of_the_model_whose_own_biases_were_changed(name: str) -> None:
    shape = SHAPES[name]
    model, copy = shape.classifier().double(), shape.classifier().double()
    adapter = inlay.attach(model, inlay.BitFit(), heads=())
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.double()
    theirs = dict(copy.named_parameters())
    state = adapter.state_dict()
    with torch.no_grad():
        for n, p in theirs.items():
            p.requires_grad_(n in state)
            if n in state:
                p.copy_(state[n])
    close(logits(model, shape), logits(copy, shape))
    for each in (model, copy):
        logits(each, shape).square().mean().backward()
    for n, p in adapter.named_parameters():
        close(p.grad, theirs[n].grad)


def test_the_biases_of_norms_change_the_output_and_are_put_back_after_every_call() -> None:
    shape = SHAPES["bert"]
    model = shape.classifier()
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.BitFit(), heads=())
    norms = [(n, h) for n, h, _ in adapter.hosts() if isinstance(h, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 2
    with torch.no_grad():
        for n, _ in norms:
            dict(adapter.named_parameters())[f"{n}.bias"].add_(0.3)
    assert not torch.allclose(logits(model, shape), before, atol=1e-3)
    for _, host in norms:
        assert not {"weight", "bias"} & host.__dict__.keys()
        assert host.bias is host._parameters["bias"]
    with inlay.using(model):
        torch.testing.assert_close(logits(model, shape), before)


def test_it_saves_the_new_biases_themselves(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shape = SHAPES["bert"]
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.BitFit(), heads=())
    disturb(adapter)
    adapter.save(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    adapter.merge()
    merged = dict(model.named_parameters())
    assert len(saved) == len(adapter.deltas)
    for key, tensor in saved.items():
        assert torch.equal(merged[key.removeprefix("base_model.model.")], tensor)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_model_without_biases_is_refused_with_the_way_out(name: str) -> None:
    shape: Shape = SHAPES[name]
    model = shape.model()
    with pytest.raises(TargetError, match="has no biases to train; set method.add_missing, or use another method"):
        inlay.attach(model, inlay.BitFit())
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.BitFit(add_missing=True))
    assert all(not p.any() for p in adapter.parameters())
    torch.testing.assert_close(logits(model, shape), before)
    linears = [n for n, m in Sites(model).body() if isinstance(m, nn.Linear)]
    assert list(adapter.deltas) == linears
    disturb(adapter)
    y = logits(model, shape)
    assert not torch.allclose(y, before, atol=1e-3)

    plain = shape.model()
    with torch.no_grad():
        for n in linears:
            plain.get_submodule(n).bias = nn.Parameter(adapter.state_dict()[f"{n}.bias"].clone())
    torch.testing.assert_close(logits(plain, shape), y, atol=1e-5, rtol=1e-5)


def test_a_model_with_few_biases_trains_those_or_all() -> None:
    config: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    few = inlay.attach(Qwen2ForCausalLM(Qwen2Config(**config)), inlay.BitFit())
    assert [n.rpartition("self_attn.")[2] for n, _ in few.named_parameters()] == [
        "q_proj.bias",
        "k_proj.bias",
        "v_proj.bias",
    ]
    every = inlay.attach(Qwen2ForCausalLM(Qwen2Config(**config)), inlay.BitFit(add_missing=True))
    assert len(every.deltas) == 7


def test_a_bias_that_was_added_cannot_be_merged() -> None:
    model = SHAPES["llama"].model()
    adapter = inlay.attach(model, inlay.BitFit(add_missing=True))
    with pytest.raises(inlay.errors.AdapterStateError, match="q_proj has no bias to merge into; use the adapter"):
        adapter.merge()
    assert model.model.layers[0].self_attn.q_proj.bias is None


@pytest.mark.parametrize("name", ["mamba", "qwen3_next"])
def test_no_bias_is_added_where_padding_would_put_it_into_a_state(name: str) -> None:
    model = build(name)
    adapter = inlay.attach(model, inlay.BitFit(add_missing=True))
    mixers = {n for n in Sites(model).find(("mixer",)) if n in adapter.deltas}
    assert mixers
    assert all(n.endswith("out_proj") for n in mixers)
    disturb(adapter)
    text = inputs(name)["input_ids"][:1]
    wide = torch.cat([torch.zeros(1, 5, dtype=text.dtype), text], dim=1)
    mask = (torch.arange(wide.shape[1]) >= 5).long()[None]
    with torch.no_grad():
        found = model(input_ids=wide, attention_mask=mask).logits[:, 5:]
        close(found, model(input_ids=text).logits, 1e-4)
