"""Hugging Face PEFT's use_dora and Inlay's DoRA: same files, outputs, losses and gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import inlay
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed
from inlay.methods.reparameterized.decomposed import Decomposed

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb, logits
from .matrix import builds, variants_and_builds
from .test_peft import LAYERS, QUERY_VALUE, both_equal, close, inputs, task_type, trained_by_peft

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")

VARIANTS = ("plain", "rank_stabilized", "patterns", "dropout", "all_linear")
every_variant_and_build = variants_and_builds(VARIANTS)


def ours(variant: str, shape: Shape, **more: Any) -> inlay.DoRA:
    query, value = QUERY_VALUE[shape.name]
    settings: dict[str, Any] = {"rank": 4, "alpha": 8, "targets": (query, value)}
    settings |= {
        "plain": {},
        "rank_stabilized": {"rank_stabilized": True},
        "patterns": {"rank_pattern": {value: 2}, "alpha_pattern": {rf".*{LAYERS[shape.name]}\.0\..*{query}": 3}},
        "dropout": {"dropout": 0.3},
        "all_linear": {"targets": ("attention", "feedforward")},
    }[variant]
    return inlay.DoRA(**settings, **more)


@every_variant_and_build
def test_peft_computes_the_same_from_our_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    model = build()
    adapter = inlay.attach(model, ours(variant, shape))
    disturb(adapter)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))
    lora = inlay.METHODS["lora"](rank=4, alpha=8, targets=QUERY_VALUE[shape.name])
    plain = build()
    inlay.attach(plain, lora)
    assert not torch.allclose(plain(**inputs(shape, model)).logits, model(**inputs(shape, model)).logits, atol=1e-2)


@every_variant_and_build
def test_output_and_gradients_from_peft_s_files_are_peft_s(
    variant: str, shape: Shape, build: Any, tmp_path: Path
) -> None:
    theirs = trained_by_peft(shape, build, variant, tmp_path, use_dora=True)
    model = build()
    adapter = inlay.load(model, tmp_path)
    assert type(adapter.method) is inlay.DoRA
    both_equal(model, theirs, inputs(shape, model))
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    expected = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            name = name.replace(".modules_to_save.default", "").replace(".default", "")
            expected[name] = p.grad
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    gradients = {keys[name]: p.grad for name, p in adapter.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        close(gradient, expected[name], 1e-4)
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in gradients.values()) > 0.7 * len(gradients)


@builds()
def test_in_training_the_same_values_are_dropped_and_the_outputs_are_equal(
    shape: Shape, build: Any, tmp_path: Path
) -> None:
    theirs = trained_by_peft(shape, build, "dropout", tmp_path, use_dora=True)
    model = build()
    inlay.load(model, tmp_path)
    results = []
    for each in (theirs, model):
        each.train()
        torch.manual_seed(0)
        results.append(each(**inputs(shape, model)))
    close(results[1].logits, results[0].logits)
    model.eval()
    assert not torch.allclose(model(**inputs(shape, model)).logits, results[1].logits, atol=1e-3)


@builds()
def test_the_files_stay_the_same_and_old_ones_are_read(shape: Shape, build: Any, tmp_path: Path) -> None:
    trained_by_peft(shape, build, "plain", tmp_path / "peft", use_dora=True)
    inlay.load(build(), tmp_path / "peft").save(tmp_path / "first")
    inlay.load(build(), tmp_path / "first").save(tmp_path / "second")
    theirs, first = load_file(tmp_path / "peft" / format_.TENSORS), load_file(tmp_path / "first" / format_.TENSORS)
    bare = {key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): t for key, t in first.items()}
    assert bare.keys() == theirs.keys() != first.keys()  # transformers' load_adapter finds ours only
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in bare.items())
    for file in (format_.CONFIG, format_.TENSORS, format_.PROVENANCE):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()

    old = {key.replace("lora_magnitude_vector", "lora_magnitude_vector.weight"): t for key, t in theirs.items()}
    unseal(tmp_path)
    save_file(old, tmp_path / "peft" / format_.TENSORS)
    model, again = build(), build()
    inlay.load(model, tmp_path / "peft")
    inlay.load(again, tmp_path / "first")
    assert torch.equal(model(**inputs(shape, model)).logits, again(**inputs(shape, model)).logits)


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_a_start_that_was_taken_away_is_saved_as_dora_of_twice_the_rank(
    initialization: Any, shape: Shape, tmp_path: Path
) -> None:
    model = shape.classifier()
    adapter = inlay.attach(model, ours("patterns", shape, initialization=initialization))
    disturb(adapter)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert (config["use_dora"], config["r"]) == (True, 8)
    theirs = peft.PeftModel.from_pretrained(shape.classifier(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))
    again = shape.classifier()
    assert type(inlay.load(again, tmp_path).method) is inlay.DoRA
    both_equal(model, again, inputs(shape, model))


def test_merged_weights_are_peft_s(shape: Shape, tmp_path: Path) -> None:
    theirs = trained_by_peft(shape, shape.model, "all_linear", tmp_path, use_dora=True)
    model = shape.model()
    adapter = inlay.load(model, tmp_path)
    adapter.merge()
    theirs.merge_adapter()
    checked = 0
    for host, module, delta in adapter.hosts():
        if isinstance(delta, Decomposed):
            close(module.weight, theirs.get_submodule(f"base_model.model.{host}").base_layer.weight, 1e-5)
            checked += 1
    assert checked >= 8


def test_without_its_lengths_a_file_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, "plain", tmp_path, use_dora=True)
    tensors = load_file(tmp_path / format_.TENSORS)
    unseal(tmp_path)
    save_file({k: t for k, t in tensors.items() if "magnitude" not in k}, tmp_path / format_.TENSORS)
    with pytest.raises(inlay.errors.CheckpointError, match=r"lora_magnitude_vector is missing"):
        inlay.load(shape.model(), tmp_path)
    save_file(tensors, tmp_path / format_.TENSORS)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    (tmp_path / format_.CONFIG).write_text(json.dumps(config | {"use_dora": False}))
    with pytest.raises(inlay.errors.CheckpointError, match=r"lora_magnitude_vector.* has no place"):
        inlay.load(shape.model(), tmp_path)


def test_an_embedding_adapted_by_peft_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, "embedding", tmp_path, use_dora=True)
    with pytest.raises(inlay.errors.CheckpointError, match="embed_tokens.* matches only Embedding, which this method"):
        inlay.load(shape.model(), tmp_path)


def test_the_start_is_the_base_in_bfloat16_where_peft_s_is_not(shape: Shape) -> None:
    """PEFT keeps m rounded to bfloat16 and divides it by a norm that is not: here, up to 0.004 per length off."""
    base = shape.model(torch.bfloat16).requires_grad_(False)
    expected = logits(base, shape)
    config = peft.LoraConfig(
        r=4, target_modules=list(QUERY_VALUE[shape.name]), use_dora=True, task_type=task_type(shape, base)
    )
    theirs = peft.get_peft_model(shape.model(torch.bfloat16), config).eval()
    assert not torch.equal(theirs(**shape.inputs()).logits, expected)
    layer = next(m for m in theirs.modules() if hasattr(m, "lora_magnitude_vector") and m.lora_magnitude_vector)
    dense = layer.get_base_layer().weight.double()
    lengths = dense.norm(dim=0 if shape.name == "gpt2" else 1)
    assert (layer.lora_magnitude_vector["default"].weight / lengths - 1).abs().max() > 1e-3

    model = shape.model(torch.bfloat16).requires_grad_(False)
    inlay.attach(model, ours("plain", shape), heads=())
    assert torch.equal(logits(model, shape), expected)


def test_a_row_of_zeros_gives_nan_in_peft_and_the_base_s_output_here() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        host = nn.Linear(6, 4)
        with torch.no_grad():
            host.weight[1] = 0
        return nn.ModuleDict({"host": host})

    x = torch.randn(3, 6)
    theirs = peft.get_peft_model(build(), peft.LoraConfig(r=2, target_modules=["host"], use_dora=True)).eval()
    assert theirs.base_model.model["host"](x).isnan().any()
    model = build()
    expected: Tensor = model["host"](x)
    inlay.attach(model, inlay.DoRA(rank=2, targets=("host",)))
    assert torch.equal(model["host"](x), expected)
