"""The fingerprint tells base models apart by their weights alone."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

import inlay
from inlay.errors import CheckpointError
from inlay.formats.base_files import fingerprint_of_files, row_digests_of_files
from inlay.models.fingerprint import digest, digest_of_rows, fingerprint, row_digests
from inlay.models.sites import Sites

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb, logits


def of(model: nn.Module) -> str:
    found = fingerprint(Sites(model))
    assert found is not None
    return found


def test_it_is_64_hexadecimal_digits_and_the_same_every_time(shape: Shape) -> None:
    model = shape.model()
    assert len(of(model)) == 64
    assert int(of(model), 16) > 0
    assert of(model) == of(model) == of(shape.model())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_does_not_matter(shape: Shape, dtype: torch.dtype) -> None:
    assert of(shape.model(dtype)) == of(shape.model())


def test_a_bfloat16_checkpoint_is_the_same_in_every_precision(shape: Shape) -> None:
    """Values below 2**-17 lose digits in float16 that bfloat16 keeps, and every checkpoint has such values."""
    stored = shape.model(torch.bfloat16)
    with torch.no_grad():
        for p in stored.parameters():
            p.view(-1)[::3] *= 1e-5
    rounded = [p for p in stored.parameters() if not torch.equal(p.half().bfloat16(), p)]
    assert rounded
    expected = of(stored)
    assert of(stored.float()) == expected
    assert of(stored.half()) == expected


def test_a_float16_checkpoint_is_the_same_in_every_precision(shape: Shape) -> None:
    model = shape.model(torch.float16)
    expected = of(model)
    assert of(model.float()) == expected
    assert of(model.bfloat16()) == expected


def test_name_and_class_do_not_matter() -> None:
    shape = SHAPES["bert"]
    model = shape.model()
    renamed = shape.model()
    renamed.config._name_or_path = "somewhere/else"
    assert of(renamed) == of(model)
    assert of(model.bert) == of(model)
    other = BertForTokenClassification(shape.config)
    other.bert.load_state_dict(model.bert.state_dict(), strict=False)
    alone = BertModel(shape.config, add_pooling_layer=False)
    alone.load_state_dict(model.bert.state_dict(), strict=False)
    assert of(other) == of(alone)
    language = BertForMaskedLM(shape.config)
    language.bert.load_state_dict(model.bert.state_dict(), strict=False)
    assert of(language) == of(alone)
    llama = SHAPES["llama"].model()
    bare = LlamaModel(SHAPES["llama"].config)
    bare.load_state_dict(llama.model.state_dict())
    assert of(bare) == of(llama)


def test_a_new_head_does_not_matter(shape: Shape) -> None:
    model, other = shape.classifier(), shape.classifier()
    heads = Sites(model).heads
    assert len(heads) == 1
    for p in other.get_submodule(heads[0]).parameters():
        p.data.add_(1)
    assert of(other) == of(model)


def test_one_changed_value_in_any_tensor_matters(shape: Shape) -> None:
    model = shape.classifier()
    expected = of(model)
    heads = Sites(model).heads
    for name, p in model.named_parameters():
        if not name.startswith(heads):
            kept = p.data.view(-1)[0].clone()
            p.data.view(-1)[0] += 0.5
            assert of(model) != expected, name
            p.data.view(-1)[0] = kept
    assert of(model) == expected


def test_the_last_values_of_a_large_tensor_are_looked_at_too() -> None:
    large = torch.randn(100, 100)
    expected = digest([large])
    seen = 0
    for position in range(0, large.numel(), 39):  # every 39th of 10000 values is sampled
        large.view(-1)[position] += 1
        seen += digest([large]) != expected
        large.view(-1)[position] -= 1
    assert seen >= 250
    large[-1] += 1
    assert digest([large]) != expected


def test_the_shape_matters_but_not_the_order() -> None:
    a, b = torch.randn(4, 6), torch.randn(3)
    assert digest([a, b]) == digest([b, a])
    assert digest([a]) != digest([a.view(6, 4)])
    assert digest([a, a]) != digest([a])


def test_another_seed_and_another_architecture_matter() -> None:
    found = {of(s.model()) for s in SHAPES.values()}
    assert len(found) == len(SHAPES)
    shape = SHAPES["bert"]
    torch.manual_seed(1)
    assert of(shape.model_class(shape.config)) not in found


@pytest.mark.parametrize("name", ["lora", "bitfit", "pfeiffer", "prompt"])
def test_an_attached_adapter_does_not_change_it_and_merging_does_not_either(name: str, tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    model = shape.classifier()
    expected = of(model)
    settings: dict[str, Any] = {"prompt": {"tokens": 3}}.get(name, {})
    adapter = inlay.attach(model, inlay.METHODS[name](**settings))
    disturb(adapter)
    assert adapter.base_fingerprint == of(model) == expected
    if name in ("lora", "bitfit"):
        adapter = inlay.attach(shape.classifier(), inlay.METHODS[name](), heads=())
        disturb(adapter)
        adapter.merge()
        assert of(adapter.model) != expected  # of the merged weights; the adapter remembers the base it was put on
        assert adapter.base_fingerprint == expected
        adapter.save(tmp_path)
        inlay.load(shape.classifier(), tmp_path)


def test_full_fine_tuning_remembers_the_base_that_it_replaced(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    expected = of(model)
    adapter = inlay.attach(model, inlay.Full())
    disturb(adapter)
    assert of(model) != expected
    assert adapter.base_fingerprint == expected
    adapter.save(tmp_path)
    inlay.load(shape.model(), tmp_path)


@pytest.mark.parametrize("name", ["lora", "full", "prompt"])
def test_loading_on_another_base_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    adapter = inlay.attach(shape.model(), inlay.METHODS[name]())
    adapter.save(tmp_path)
    other = shape.model()
    other.config._name_or_path = "org/another-model"
    other.model.embed_tokens.weight.data[0, 0] += 1
    before, names = logits(other, shape), [n for n, _ in other.named_modules()]
    try:
        with pytest.raises(
            CheckpointError, match=rf"trained on a base model with fingerprint {of(shape.model())[:12]}"
        ):
            inlay.load(other, tmp_path)
        with pytest.raises(CheckpointError, match=rf"org/another-model has {of(other)[:12]}: the weights differ"):
            inlay.load(other, tmp_path)
    finally:
        del other.config._name_or_path
    assert torch.equal(logits(other, shape), before)
    assert [n for n, _ in other.named_modules()] == names
    assert all(p.requires_grad for p in other.parameters())
    assert not inlay.adapters(other)


def test_a_model_without_values_has_none() -> None:
    with torch.device("meta"):
        model = SHAPES["llama"].model_class(SHAPES["llama"].config)
    assert fingerprint(Sites(model)) is None
    assert inlay.attach(model, inlay.LoRA()).base_fingerprint is None


def resized(seed: int, added: int = 4, **settings: Any) -> Any:
    """A model whose vocabulary has grown by rows that the seed draws."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, vocab_size=4000, **settings
    )
    model = LlamaForCausalLM(config).eval()
    torch.manual_seed(seed)
    model.resize_token_embeddings(4000 + added, mean_resizing=False)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_of_a_resized_vocabulary_is_not_put_on_other_new_rows(tied: bool, tmp_path: Path) -> None:
    model = resized(1, tie_word_embeddings=tied)
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    disturb(adapter)
    ids = torch.tensor([[5, 4001, 7, 4003, 9]])
    adapter.save(tmp_path)
    other = resized(2, tie_word_embeddings=tied)
    with pytest.raises(CheckpointError, match="other rows than this LlamaForCausalLM.*Load the very model"):
        inlay.load(other, tmp_path)
    assert not inlay.adapters(other)
    inlay.load(same := resized(1, tie_word_embeddings=tied), tmp_path)
    torch.testing.assert_close(same(ids).logits, model(ids).logits)
    inlay.load(resized(1, tie_word_embeddings=tied).to(torch.bfloat16), tmp_path)
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert about["base_rows"].keys() == ({"input"} if tied else {"input", "output"})
    del about["base_rows"]  # as Inlay wrote it before
    (tmp_path / "provenance.json").write_text(json.dumps(about))
    unseal(tmp_path)
    inlay.load(resized(2, tie_word_embeddings=tied), tmp_path)


def test_new_rows_of_the_output_alone_count_too(tmp_path: Path) -> None:
    model, other = resized(1), resized(1)
    with torch.no_grad():
        other.lm_head.weight[4002] += 0.1
    inlay.attach(model, inlay.LoRA(rank=2)).save(tmp_path)
    with pytest.raises(CheckpointError, match="output embeddings"):
        inlay.load(other, tmp_path)


def test_rows_that_the_adapter_keeps_itself_may_be_drawn_anew(tmp_path: Path) -> None:
    model = resized(1)
    adapter = inlay.attach(model, inlay.LoRA(rank=2), heads=("model.embed_tokens", "lm_head"))
    disturb(adapter)
    adapter.save(tmp_path)
    inlay.load(other := resized(2), tmp_path)
    ids = torch.tensor([[5, 4001, 7, 4003, 9]])
    torch.testing.assert_close(other(ids).logits, model(ids).logits)


def test_files_tell_the_rows_too(tmp_path: Path) -> None:
    model = resized(1)
    model.save_pretrained(tmp_path)
    sites = Sites(model)
    assert row_digests_of_files(tmp_path, sites) == row_digests(sites) != row_digests(Sites(resized(2)))
    assert fingerprint_of_files(tmp_path, sites) == fingerprint(sites) == fingerprint(Sites(resized(2)))


def test_looking_at_every_row_of_a_large_vocabulary_takes_little() -> None:
    embedding_VD = torch.zeros(150_000, 256)
    start = time.perf_counter()
    digest_of_rows([embedding_VD])
    assert time.perf_counter() - start < 1
