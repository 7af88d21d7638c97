"""The last blocks are trained whole, and nothing below them costs anything."""

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.methods.selective.last_layers import _last_stack
from inlay.models.sites import Sites

from ..core.test_architectures import ARCHITECTURES, built, run
from ..shapes import SHAPES, Shape, disturb, logits
from .test_lora_hosts import Packed

LAST = {
    "llama": "model.layers.1.",
    "gpt2": "transformer.h.1.",
    "bert": "bert.encoder.layer.1.",
    "t5": "decoder.block.1.",
}
AFTER = {
    "llama": {"model.norm.weight"},
    "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
    "bert": {"bert.pooler.dense.weight", "bert.pooler.dense.bias"},
    "t5": {"decoder.final_layer_norm.weight"},
}
# transformers' T5 classifier keeps its encoder-decoder one level deeper
PREFIX = {"t5": "transformer."}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_it_trains_the_last_block_what_comes_after_and_the_head(shape: Shape) -> None:
    for build, prefix in ((shape.model, ""), (shape.classifier, PREFIX.get(shape.name, ""))):
        model = build()
        names = [n for n, _ in model.named_parameters()]
        heads = Sites(model).heads
        adapter = inlay.attach(model, inlay.LastLayers(layers=1))
        found = {n for n, _ in adapter.named_parameters()}
        assert found == {
            n
            for n in names
            if n.startswith(prefix + LAST[shape.name])
            or n.removeprefix(prefix) in AFTER[shape.name]
            or any(n.startswith(head + ".") for head in heads)
        }
        assert AFTER[shape.name] <= {n.removeprefix(prefix) for n in found}


def test_the_count_is_that_of_the_blocks(shape: Shape) -> None:
    for layers in (1, 2):
        model = shape.model()
        own = dict(model.named_parameters())
        last = [p for n, p in own.items() if n.startswith(LAST[shape.name])]
        if layers == 2:
            last += [p for n, p in own.items() if n.startswith(LAST[shape.name].replace(".1.", ".0."))]
        last += [own[n] for n in AFTER[shape.name]]
        adapter = inlay.attach(model, inlay.LastLayers(layers=layers), heads=())
        assert sum(p.numel() for p in adapter.parameters()) == sum(p.numel() for p in last)


@pytest.mark.parametrize("layers", [1, 2])
def test_it_equals_a_copy_of_the_model_whose_own_blocks_were_changed(shape: Shape, layers: int) -> None:
    model, copy = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.LastLayers(layers=layers))
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.double()
    state, theirs = adapter.state_dict(), dict(copy.named_parameters())
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


def first_input(model: nn.Module, block: str) -> list[Tensor]:
    """What enters the block named `block`, once a forward pass has run."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    model.get_submodule(block).register_forward_pre_hook(hook, with_kwargs=True)
    return seen


def test_what_enters_the_first_trained_block_needs_no_gradient(shape: Shape) -> None:
    for build in (shape.model, shape.classifier):
        for layers in (1, 2):
            model = build().train()
            blocks = _last_stack(Sites(model))
            seen = first_input(model, blocks[-layers])
            after = first_input(model, blocks[-1])
            inlay.attach(model, inlay.LastLayers(layers=layers))
            logits(model, shape)
            assert not seen[0].requires_grad
            assert after[0].requires_grad == (layers == 2)
            assert seen[0].grad_fn is None


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "albert"])
def test_nothing_below_the_cut_needs_a_gradient_in_any_architecture(architecture: str) -> None:
    model, sites = built(architecture)
    blocks = _last_stack(sites)
    adapter = inlay.attach(model, inlay.LastLayers(layers=1))
    graded: dict[str, bool] = {}
    for name, m in sites.modules():
        m.register_forward_hook(lambda _, args, result, name=name: graded.update({name: _requires_grad(result)}))
    with torch.enable_grad():
        run_with_gradients(model)
    assert graded[blocks[-1]]
    below = [n for n in graded if any(n == b or n.startswith(b + ".") for b in [*sites.blocks] if b != blocks[-1])]
    assert below
    assert not [n for n in below if graded[n]]
    assert not [n for n in graded if "embed" in n.lower() and graded[n] and "pooler" not in n]
    expected = {"llama", "gpt2", "t5", "mbart", "opt", "gpt_neox", "qwen2", "gemma2", "phi3", "vit"}
    outside = [n for n in adapter.deltas if not n.startswith(blocks[-1] + ".") and "pooler" not in n]
    assert len([n for n in outside if n not in adapter.heads]) == (architecture in expected)


def _requires_grad(result: Any) -> bool:
    result = result[0] if isinstance(result, tuple) else result
    return isinstance(result, Tensor) and result.requires_grad


def run_with_gradients(model: nn.Module) -> None:
    no_grad, torch.no_grad = torch.no_grad, torch.enable_grad  # type: ignore[misc, assignment]
    try:
        run(model)
    finally:
        torch.no_grad = no_grad  # type: ignore[misc]


def test_no_activations_are_kept_below_the_cut() -> None:
    shape = SHAPES["llama"]
    saved = {}
    for layers in (1, 2):
        model = shape.model().train()
        inlay.attach(model, inlay.LastLayers(layers=layers))
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits(model, shape)
        saved[layers] = count
    assert saved[1] < 0.75 * saved[2]


@pytest.mark.parametrize("flipped", [False, True])
def test_a_linear_layer_runs_once_on_its_trained_copies(flipped: bool) -> None:
    host = Conv1D(5, 7) if flipped else nn.Linear(7, 5)
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.Pattern(include=(".*",)))
    disturb(adapter)
    x = torch.randn(2, 7)
    with torch.profiler.profile() as profile:
        y = model(x)
    products = sum(event.count for event in profile.key_averages() if event.key == "aten::addmm")
    assert products == 1
    weight = adapter.deltas["0"].get_parameter("weight")
    close(y, x @ (weight if flipped else weight.T) + adapter.deltas["0"].get_parameter("bias"), 1e-6)
    assert not {"weight", "bias"} & host.__dict__.keys()


# Only the head


@pytest.mark.parametrize("name", SHAPES)
def test_no_layers_train_the_head_on_a_frozen_model(name: str) -> None:
    shape = SHAPES[name]
    model = shape.classifier().train()
    head = Sites(model).heads[0]
    adapter = inlay.attach(model, inlay.LastLayers(layers=0))
    assert all(n.startswith(head + ".") for n, _ in adapter.named_parameters())
    assert {n for n, _ in adapter.named_parameters()} == {
        n for n, _ in model.named_parameters() if n.startswith(head + ".") and "adapters" not in n
    }
    seen = first_input(model, head)
    logits(model, shape).sum().backward()
    assert not seen[0].requires_grad
    assert all(p.grad is not None for p in adapter.parameters())


def test_no_layers_and_no_head_are_refused() -> None:
    model = SHAPES["llama"].model()
    with pytest.raises(
        TargetError, match="method.layers is 0, which trains the head only, but LlamaForCausalLM has none"
    ):
        inlay.attach(model, inlay.LastLayers(layers=0))
    assert not inlay.adapters(model)
    assert inlay.attach(model, inlay.LastLayers(layers=0), heads=("lm_head",)).heads == ("lm_head",)


# Refusals


def test_more_layers_than_there_are_are_refused(shape: Shape) -> None:
    with pytest.raises(TargetError, match="method.layers is 3, but .* has 2 blocks; take fewer"):
        inlay.attach(shape.model(), inlay.LastLayers(layers=3))
    with pytest.raises(SettingsError, match="method.layers is -1; it must be at least 0"):
        inlay.LastLayers(layers=-1)


def test_a_model_that_shares_one_block_and_one_without_blocks_are_refused() -> None:
    model, _ = built("albert")
    with pytest.raises(TargetError, match="AlbertModel runs one block again and again: it has no last ones to train"):
        inlay.attach(model, inlay.LastLayers(layers=1))
    with pytest.raises(TargetError, match="Sequential has no transformer blocks"):
        inlay.attach(nn.Sequential(nn.Linear(2, 2)), inlay.LastLayers())


def test_a_packed_layer_above_the_cut_is_refused_and_one_below_is_none_of_its_business() -> None:
    for layer, refused in ((1, True), (0, False)):
        model = SHAPES["llama"].model()
        packed = Packed(False, "parameter")
        packed.in_features = packed.out_features = 32
        model.model.layers[layer].self_attn.q_proj = packed
        if refused:
            with pytest.raises(TargetError, match="the weight of a Packed is packed"):
                inlay.attach(model, inlay.LastLayers(layers=1))
        else:
            inlay.attach(model, inlay.LastLayers(layers=1))


def test_a_norm_of_the_embeddings_is_below_the_cut() -> None:
    config = t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=50)
    adapter = inlay.attach(t.BloomForCausalLM(config), inlay.LastLayers(layers=1))
    assert [n for n in adapter.deltas if ".h.1." not in n] == ["transformer.ln_f"]
