"""Every method on a base in 4 bits: it computes and learns what it does on a plain base with the same weights."""

import copy
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.core import weights
from inlay.core.sites import Sites
from inlay.errors import AdapterStateError, SettingsError, TargetError
from inlay.training.quantized import quantize

from .shapes import LABELS, ROWS, SHAPES, Shape, disturb, logits, method

bnb = pytest.importorskip("bitsandbytes")

WIDER = {  # of whole blocks of 64 numbers, and of layers that bitsandbytes would repack
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"n_embd": 64},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16},
}
TRAIN_PACKED = ("full", "last-layers", "pattern")


def wider(name: str) -> Shape:
    config = SHAPES[name].config
    return dataclasses.replace(SHAPES[name], config=type(config).from_dict(config.to_dict() | WIDER[name]))


WIDE = {name: wider(name) for name in SHAPES}

every_shape = pytest.mark.parametrize("shape", WIDE.values(), ids=WIDE)
two_shapes = pytest.mark.parametrize("shape", [WIDE["llama"], WIDE["bert"]], ids=["llama", "bert"])
every_method = pytest.mark.parametrize("name", [name for name in inlay.METHODS if name not in TRAIN_PACKED])


def quantized(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    model = shape.model(dtype)
    quantize(model, dtype)
    return model


def packed_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from ((name, m) for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit))


def dequantized(shape: Shape) -> Any:
    """The plain model that has the weights which the quantized one stands for."""
    model = shape.model()
    for name, layer in packed_layers(quantized(shape)):
        weight_OI = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        host = model.get_submodule(name)
        host.weight.data = weight_OI.T.contiguous() if weights.is_flipped(host) else weight_OI
    return model


def attached(name: str, shape: Shape, model: nn.Module) -> inlay.Adapter:
    torch.manual_seed(0)
    adapter = inlay.attach(model, method(name, shape))
    disturb(adapter)
    return adapter


def gradients(adapter: inlay.Adapter, shape: Shape, **changes: Any) -> dict[str, Tensor]:
    adapter.model.zero_grad()
    logits(adapter.model, shape, **changes).square().mean().backward()
    found = {name: p.grad for name, p in adapter.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor equals its counterpart to this part of its length."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor - b[name]).norm() <= tolerance * b[name].norm() + 1e-9, name


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


@every_shape
def test_all_linear_layers_of_the_body_are_quantized_and_nothing_else(shape: Shape) -> None:
    for build in (shape.model, shape.classifier):
        plain, model = build(), build()
        quantize(model, torch.float32)
        packed = {name for name, _ in packed_layers(model)}
        sites = inlay.core.sites.Sites(plain)
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
    fingerprint = inlay.core.fingerprint.fingerprint
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
