"""Patterns choose parameters of the base by their whole names; every pattern counts, and tied parameters stay tied."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import inlay
from inlay.errors import SettingsError, TargetError

from ..shapes import SHAPES, Shape, disturb, logits
from .test_lora_hosts import Packed


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def trained(name: str, **settings: Any) -> set[str]:
    adapter = inlay.attach(SHAPES[name].model(), inlay.Pattern(**settings), heads=())
    return {n for n, _ in adapter.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include": (r".*q_proj\.weight",)}, lambda n: n.endswith("q_proj.weight")),
        ({"include": (r".*layers\.1\..*",), "exclude": (r".*norm.*",)}, lambda n: ".1." in n and "norm" not in n),
        ({"include": (r".*norm.*", r".*\.0\.mlp.*")}, lambda n: "norm" in n or ".0.mlp" in n),
        ({"include": (r"model\.norm\.weight",)}, lambda n: n == "model.norm.weight"),
        ({"include": ".*", "exclude": ".*weight(?<!norm.weight)"}, lambda n: n.endswith("norm.weight")),
        ({"include": (r"lm_head.*",)}, lambda n: n == "lm_head.weight"),
    ],
)
def test_exactly_the_parameters_whose_names_fit_are_trained(settings: Any, expected: Any) -> None:
    names = {n for n, _ in SHAPES["llama"].model().named_parameters()}
    assert trained("llama", **settings) == {n for n in names if expected(n)}


def test_all_parameters_can_be_chosen_and_equal_a_copy_of_the_model_that_was_changed(shape: Shape) -> None:
    model, copy = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.Pattern(include=(".*",)), heads=())
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.double()
    state, theirs = adapter.state_dict(), dict(copy.named_parameters())
    assert state.keys() == theirs.keys()
    with torch.no_grad():
        for n, p in theirs.items():
            p.copy_(state[n])
    close(logits(model, shape), logits(copy, shape))
    for each in (model, copy):
        logits(each, shape).square().mean().backward()
    for n, p in adapter.named_parameters():
        close(p.grad, theirs[n].grad)


def test_the_count_and_the_start_are_those_of_the_parameters(shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    count = sum(p.numel() for n, p in model.named_parameters() if ".1." in n)
    adapter = inlay.attach(model, inlay.Pattern(include=(r".*\.1\..*",)), heads=())
    assert sum(p.numel() for p in adapter.parameters()) == count
    assert torch.equal(logits(model, shape), before)


@pytest.mark.parametrize("include", [r"transformer\.wte\.weight", r"lm_head\.weight"])
def test_a_tied_parameter_is_one_parameter_in_all_of_its_places(include: str, tmp_path: Any) -> None:
    shape = SHAPES["gpt2"]
    model, copy = shape.model().double(), shape.model().double()
    assert model.lm_head.weight is model.transformer.wte.weight
    adapter = inlay.attach(model, inlay.Pattern(include=(include,)))
    assert [n for n, _ in adapter.named_parameters()] == ["transformer.wte.weight"]
    assert list(adapter.deltas) == ["transformer.wte", "lm_head"]
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.double()
    with torch.no_grad():
        copy.lm_head.weight.copy_(adapter.state_dict()["transformer.wte.weight"])
    close(logits(model, shape), logits(copy, shape))
    for each in (model, copy):
        logits(each, shape).square().mean().backward()
    close(next(adapter.parameters()).grad, copy.lm_head.weight.grad)
    before, expected = model.lm_head.weight.detach().clone(), logits(model, shape)
    adapter.merge()  # the one copy takes the tensor's place wherever it is
    assert model.lm_head.weight is model.transformer.wte.weight
    close(logits(model, shape), expected)
    adapter.unmerge()
    assert torch.equal(model.lm_head.weight, before)
    adapter.save(tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 1
    again = shape.model().double()
    loaded = inlay.load(again, tmp_path)
    for p in loaded.parameters():
        p.data = p.data.double()
    close(logits(again, shape), logits(model, shape), 1e-6)


def test_what_is_saved_are_the_parameters_by_their_names_and_the_patterns(tmp_path: Any) -> None:
    model = SHAPES["bert"].model()
    method = inlay.Pattern(include=(r".*\.1\..*dense.*",), exclude=(r".*bias",))
    adapter = inlay.attach(model, method, heads=())
    disturb(adapter)
    adapter.save(tmp_path)
    names = {key.removeprefix("base_model.model.") for key in load_file(tmp_path / "adapter_model.safetensors")}
    assert names == {
        n for n, _ in SHAPES["bert"].model().named_parameters() if ".1." in n and n.endswith("dense.weight")
    }
    assert inlay.load(SHAPES["bert"].model(), tmp_path).method == method


def test_the_head_is_trained_whole_whatever_the_patterns_say() -> None:
    model = SHAPES["bert"].classifier()
    adapter = inlay.attach(model, inlay.Pattern(include=(r".*LayerNorm.*",)))
    assert {"classifier.weight", "classifier.bias"} <= {n for n, _ in adapter.named_parameters()}
    only = inlay.attach(SHAPES["bert"].classifier(), inlay.Pattern(include=(r"classifier\.weight",)))
    assert {n for n, _ in only.named_parameters()} == {"classifier.weight", "classifier.bias"}
    with pytest.raises(TargetError, match="excludes only the model's head, which is always trained whole"):
        inlay.attach(
            SHAPES["bert"].classifier(), inlay.Pattern(include=(r".*LayerNorm.*",), exclude=(r"classifier.*",))
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "method.include is empty; give regular expressions"),
        (
            {"include": ("q_proj",)},
            "pattern 'q_proj' fits no parameter of LlamaForCausalLM; its names are like lm_head",
        ),
        ({"include": (r"model\.norm",)}, "fits no parameter"),
        ({"include": (".*q_proj.*", ".*q_porj.*")}, r"pattern '\.\*q_porj\.\*' fits no parameter"),
        ({"include": (".*q_proj.*",), "exclude": (r".*\.bias",)}, r"pattern '\.\*\\\\.bias' fits no parameter"),
        ({"include": (".*q_proj.*",), "exclude": (".*",)}, "method.exclude leaves nothing of what method.include"),
    ],
)
def test_a_pattern_that_does_nothing_is_refused(settings: Any, message: str) -> None:
    model = SHAPES["llama"].model()
    with pytest.raises(TargetError, match=message):
        inlay.attach(model, inlay.Pattern(**settings))
    assert not inlay.adapters(model)


def test_a_broken_pattern_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"method.exclude is '\(', which is no regular expression"):
        inlay.Pattern(include=(".*",), exclude=("(",))


def test_a_quantized_parameter_is_refused() -> None:
    model = nn.Sequential(Packed(False, "parameter"), nn.Linear(3, 3))
    assert not model[0].weight.is_floating_point()
    with pytest.raises(TargetError, match="the weight of a Packed is packed .* and cannot be trained"):
        inlay.attach(model, inlay.Pattern(include=(r"0\..*",)))
    assert not inlay.adapters(model)
    inlay.attach(model, inlay.Pattern(include=(r"1\..*",)))


def test_a_parameter_of_the_model_itself_and_a_bias_alone_are_hosts() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.layer(x)

    model = Scaled()
    x = torch.randn(2, 3)
    before = model(x)
    adapter = inlay.attach(model, inlay.Pattern(include=("scale", r"layer\.bias")))
    assert {n for n, _ in adapter.named_parameters()} == {"scale", "layer.bias"}
    with torch.no_grad():
        adapter.deltas[""].get_parameter("scale").fill_(2)
        adapter.deltas["layer"].get_parameter("bias").add_(1)
    close(model(x), 2 * (before + 1), 1e-6)
    adapter.detach()
    assert torch.equal(model(x), before)


def test_a_bfloat16_base_is_trained_in_float32_copies() -> None:
    model = SHAPES["llama"].model(torch.bfloat16)
    adapter = inlay.attach(model, inlay.Pattern(include=(r".*\.1\..*",)))
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert logits(model, SHAPES["llama"]).dtype == torch.bfloat16
