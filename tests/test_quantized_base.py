"""A base in 4 bits: what is quantized, how it computes, and what it gives PEFT."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import inlay
from inlay.bases.quantized import quantize
from inlay.errors import AdapterStateError, SettingsError, TargetError
from inlay.models import weights
from inlay.models.sites import Sites

from .quantized_models import (
    WIDE,
    attached,
    bnb,
    close,
    every_shape,
    gradients,
    packed_layers,
    quantized,
    same,
    two_shapes,
)
from .shapes import Shape, disturb, logits


@every_shape
def test_all_linear_layers_of_the_body_are_quantized_and_nothing_else(shape: Shape) -> None:
    for build in (shape.model, shape.classifier):
        plain, model = build(), build()
        quantize(model, torch.float32)
        packed = {name for name, _ in packed_layers(model)}
        sites = inlay.models.sites.Sites(plain)
        assert packed == {n for n, m in sites.body() if weights.is_linear(m) and not n.endswith(".wo")}
        left = {name for name, m in model.named_modules() if weights.is_linear(m)} - packed
        assert all(name.endswith(".wo") or sites.in_head(name) or name == "lm_head" for name in left)
        before = dict(plain.named_parameters())
        for name, p in model.named_parameters():
            if name.rpartition(".")[0] not in packed or name.endswith("bias"):
                assert torch.equal(p, before[name]), name
        assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]


@every_shape
def test_a_layer_computes_what_its_weight_of_blocks_of_64_says(shape: Shape) -> None:
    plain, model = shape.model(), quantized(shape)
    for name, layer in packed_layers(model):
        own = weights.read(plain.get_submodule(name))["weight"]
        weight_OI = weights.read(layer)["weight"]
        assert 0.05 < (weight_OI - own).norm() / own.norm() < 0.12
        peaks = own.reshape(-1, 64).abs().max(1).values
        close(weight_OI.reshape(-1, 64).abs().max(1).values, peaks, 0.05)  # but for the double quantization
        assert layer.weight.quant_state.nested
        x_NI = torch.randn(3, own.shape[1], generator=torch.Generator().manual_seed(0))
        close(layer(x_NI), F.linear(x_NI, weight_OI, layer.bias), 1e-6)
        close(weights.product(layer, x_NI), x_NI @ weight_OI.T, 1e-6)


@two_shapes
def test_the_bits_are_those_that_transformers_loads(shape: Shape, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = shape.model(torch.bfloat16)
    model.save_pretrained(tmp_path)
    theirs = type(model).from_pretrained(
        tmp_path,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["classifier", "lm_head"],
        ),
    )
    quantize(model, torch.bfloat16)
    ours, its = dict(packed_layers(model)), dict(packed_layers(theirs))
    assert ours.keys() == its.keys()
    for name, layer in ours.items():
        assert torch.equal(layer.weight, its[name].weight)
        assert torch.equal(weights.read(layer)["weight"], weights.read(its[name])["weight"])
        assert layer.weight.quant_state.dtype == its[name].weight.quant_state.dtype == torch.bfloat16


def test_a_layer_under_two_names_is_one_layer_and_tied_weights_are_left_alone() -> None:
    model = WIDE["llama"].model()
    first, second = model.model.layers
    second.self_attn.q_proj = first.self_attn.q_proj
    second.mlp.up_proj.weight = second.mlp.gate_proj.weight
    quantize(model, torch.float32)
    assert second.self_attn.q_proj is first.self_attn.q_proj
    assert isinstance(first.self_attn.q_proj, bnb.nn.Linear4bit)
    assert second.mlp.up_proj.weight is second.mlp.gate_proj.weight
    assert type(second.mlp.up_proj) is nn.Linear


def test_heads_that_are_trained_whole_are_not_quantized() -> None:
    model = WIDE["bert"].model()
    quantize(model, torch.float32, heads=("classifier", "bert.pooler"))
    assert type(model.bert.pooler.dense) is nn.Linear
    inlay.attach(model, inlay.LoRA(), heads=("classifier", "bert.pooler"))


def test_reading_a_weight_does_not_decide_the_dtype_in_which_a_layer_computes() -> None:
    layer = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="nf4").to("cpu")
    weights.read(layer)
    weights.product(layer, torch.randn(2, 64))
    assert not layer.compute_type_is_set
    assert layer(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.compute_dtype == torch.bfloat16


def test_a_weight_is_read_without_rounding_it_to_the_dtype_of_the_base() -> None:
    layer = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="nf4").to(torch.bfloat16).to("cpu")
    assert layer.weight.quant_state.dtype == torch.bfloat16
    assert torch.equal(weights.read(layer)["weight"], layer(torch.eye(64)).T)


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_weights_that_bitsandbytes_has_repacked_are_brought_back(double: bool) -> None:
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compress_statistics=double).to("cpu")
    model, x_NI = nn.Sequential(layer), torch.randn(3, 128)
    bits, before_OI = layer.weight.data.clone(), weights.read(layer)["weight"].clone()
    with torch.no_grad():
        model.eval()(x_NI)
    if not weights._is_repacked(layer):
        pytest.skip("on this processor bitsandbytes repacks nothing")
    close(weights.read(layer)["weight"], before_OI, 1e-2)
    x = x_NI.clone().requires_grad_()
    with pytest.warns(UserWarning, match="gemv_4bit: an autograd kernel was not registered"):
        model.train()(x).sum().backward()
    assert x.grad is None  # or there would be nothing to bring back
    weights.keep_trainable(model)
    for _ in range(2):
        assert torch.equal(layer.weight.data, bits)
        close(weights.read(layer)["weight"], before_OI, 1e-3)
        x = x_NI.clone().requires_grad_()
        (gradient_NI,) = torch.autograd.grad(model(x).sum(), x)
        close(gradient_NI, before_OI.sum(0).expand(3, -1), 2e-2)  # the blocks' magnitudes have been in 16 bits
        with torch.no_grad():
            model.eval()(x_NI)
        model.train()


@every_shape
def test_the_fingerprint_is_that_of_the_base_before_quantization(shape: Shape, tmp_path: Path) -> None:
    plain, model = shape.model(), quantized(shape)
    fingerprint = inlay.models.fingerprint.fingerprint
    expected = fingerprint(Sites(plain))
    assert fingerprint(Sites(model)) == fingerprint(Sites(copy.deepcopy(model))) == expected
    attached("lora", shape, model).save(tmp_path)
    inlay.load(plain, tmp_path)  # where it can be merged
    other = shape.model()
    with torch.no_grad():
        other.get_submodule(next(packed_layers(model))[0]).weight.mul_(2)  # its 4 bits would stay the same
    quantize(other, torch.float32)
    assert fingerprint(Sites(other)) != expected


@two_shapes
def test_a_model_that_transformers_has_quantized_keeps_its_gradients_too(shape: Shape, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape.model().save_pretrained(tmp_path)
    found = []
    for evaluate_first in (False, True):
        model = shape.model_class.from_pretrained(  # pyright: ignore[reportFunctionMemberAccess]
            tmp_path,
            quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["classifier", "lm_head"]
            ),
        )
        if evaluate_first:
            with torch.no_grad():
                logits(model.eval(), shape)
        adapter = attached("lora", shape, model.train())
        before = gradients(adapter, shape)
        with torch.no_grad():
            logits(model.eval(), shape)
        after = gradients(adapter, shape)
        assert all(torch.equal(after[n], gradient) for n, gradient in before.items())
        found.append(before)
    same(found[1], found[0], 0.1)  # the evaluation before has rounded the blocks' magnitudes to 16 bits


@pytest.mark.filterwarnings("ignore")  # PEFT's own, about transformers' deprecations
@pytest.mark.parametrize(
    "layers", ["Linear4bit", "Linear"]
)  # PEFT has some of its own for bases that say what they are
@two_shapes
def test_a_trained_qlora_adapter_gives_the_same_logits_in_peft_on_the_same_4_bits(
    shape: Shape, layers: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model, theirs = quantized(shape), quantized(shape)
    theirs.is_loaded_in_4bit = layers == "Linear4bit"
    before = logits(model, shape)
    adapter = inlay.attach(model.train(), inlay.LoRA(rank=4))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        logits(model, shape).square().mean().backward()
        optimizer.step()
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    kinds = {type(m).__name__ for m in theirs.modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert kinds == {layers}
    with torch.no_grad():
        ours = logits(model.eval(), shape)
        close(logits(theirs, shape), ours, 1e-5)
    assert (ours - before).abs().max() > 0.1


@pytest.mark.parametrize("name", ["lora", "dora"])  # dora reads the weight on every forward pass of a graph
def test_compiles_in_one_graph(name: str) -> None:
    torch.compiler.reset()
    shape = WIDE["llama"]
    model = quantized(shape)
    attached(name, shape, model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        close(logits(compiled, shape, use_cache=False), logits(model, shape, use_cache=False), 1e-5)


def test_a_copy_is_independent() -> None:
    shape = WIDE["llama"]
    model = quantized(shape)
    adapter = attached("dora", shape, model)
    y, twin = logits(model, shape), copy.deepcopy(model)
    disturb(adapter)
    assert torch.equal(logits(twin, shape), y)
    assert not torch.equal(logits(model, shape), y)


def test_without_bitsandbytes_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = WIDE["llama"].model()
    with pytest.raises(SettingsError, match=r"pip install 'inlay\[quantize\]'"):
        quantize(model, torch.float32)
    assert not list(packed_layers(model))


def test_a_model_with_adapters_or_without_linear_layers_is_refused() -> None:
    model = WIDE["llama"].model()
    inlay.attach(model, inlay.LoRA(), "sql")
    with pytest.raises(AdapterStateError, match=r"has adapters already \(sql\)"):
        quantize(model, torch.float32)
    with pytest.raises(TargetError, match="no linear layers"):
        quantize(nn.Sequential(nn.LayerNorm(4)), torch.float32)
    assert not list(packed_layers(model))
