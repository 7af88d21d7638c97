"""Hosts whose weight is used without calling them: left out by roles, refused by name, found in the first pass."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import inlay
from inlay.errors import InertAdapter, TargetError, VerificationFailed
from inlay.models.bypass import bypassed, bypassed_in

from ..architectures import build
from ..shapes import SHAPES, Shape, disturb, logits

NAMES = ("called", "read", "tower", "experts.0", "experts.1")


class Mixed(nn.Module):
    """A layer that is called, one whose weight is read, one for images that do not come, and an expert without work."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.tower = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        past = _hidden(self)
        h = self.called(x) + F.linear(x, past).tanh()
        h = self.experts[0](h).to(past.dtype)
        return h if image is None else h + self.tower(image)


def _hidden(model: Any) -> Tensor:
    """The weight by a way that no reader of the class sees."""
    return getattr(model, "re" + "ad").weight


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("dtype", "whole", "given", "bias_only", "tied", "cut", "clamped"):
            setattr(self, name, nn.Linear(4, 4))
        self.tied.weight = self.dtype.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.dtype(x.to(self.dtype.weight.dtype)) if isinstance(self.dtype.weight, Tensor) else x
        if self.training:
            self.clamped.weight.data.clamp_(-1, 1)
            fast = F.linear(x, self.cut.weight) if x.is_cuda else None
            if fast is not None:
                return fast
        x = self.clamped(self.cut(x))
        return self._more(F.linear(self.whole.weight @ x, self.given.weight.view(4, 4)) + self.bias_only.bias)

    def _more(self, x: Tensor) -> Tensor:
        return self.whole(x)


def mixed(*targets: str) -> tuple[Mixed, inlay.Adapter]:
    torch.manual_seed(0)
    model = Mixed()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=targets or NAMES))
    disturb(adapter)
    return model, adapter


def test_reading_a_value_is_told_from_looking_at_a_tensor() -> None:
    assert bypassed(Reading()) == {"whole", "given", "bias_only"}


class InParts(nn.Module):
    """A layer that is called, or read in parts where a setting says so, as Bloom's `dense`."""

    def __init__(self, parts: int, exact: bool) -> None:
        super().__init__()
        self.parts, self.exact, self.layer = parts, exact, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.parts > 1 and self.exact:
            return F.linear(x, self.layer.weight)
        else:
            return self.layer(x)


def test_the_modules_own_settings_tell_which_way_is_taken() -> None:
    assert bypassed(InParts(1, True)) == bypassed(InParts(2, False)) == set()
    assert bypassed(InParts(2, True)) == {"layer"}
    small = transformers.BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=16)
    assert bypassed_in(transformers.BloomForCausalLM(small)) == set()


class ByCall(nn.Module):
    """Layers that are called or read as the call wants it, as in DeBERTa, Gemma 3n and RecurrentGemma."""

    def __init__(self) -> None:
        super().__init__()
        self.extra, self.kept, self.trained, self.decoding = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor, other: Tensor | None = None, *, cache: Any = None) -> Tensor:
        if other is not None:
            x = F.linear(x, self.extra.weight)
        else:
            x = self.extra(x)
        if cache is None:
            x = self.kept(x)
        else:
            x = F.linear(x, self.kept.weight)
        if self.training:
            x = F.linear(x, self.trained.weight)
        else:
            x = self.trained(x)
        if len(x) == 1:
            return F.linear(x, self.decoding.weight)
        else:
            return self.decoding(x)


def test_what_only_an_optional_argument_leads_to_is_left_to_the_watch() -> None:
    assert bypassed(ByCall()) == {"kept", "trained", "decoding"}
    config = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    gemma = transformers.Gemma3nTextConfig(
        **config,
        vocab_size=20,
        vocab_size_per_layer_input=20,
        num_key_value_heads=1,
        layer_types=["full_attention"] * 2,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0, 0.0],
    )
    for model, expected in (
        (transformers.DebertaModel(transformers.DebertaConfig(**config, vocab_size=20)), set()),
        (transformers.RecurrentGemmaModel(transformers.RecurrentGemmaConfig(**config, vocab_size=20)), {"conv_1d"}),
        (transformers.Gemma3nTextModel(gemma), {"correction_coefs"}),
    ):
        assert expected == {name.rpartition(".")[2] for name in bypassed_in(model)}


@pytest.mark.parametrize("name", SHAPES)
def test_ordinary_models_have_none(name: str) -> None:
    model = SHAPES[name].model()
    assert bypassed_in(model) == ({"shared"} if name == "t5" else set())


def mamba() -> Any:
    torch.manual_seed(0)
    config = transformers.MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=60)
    return transformers.MambaForCausalLM(config).eval()


def test_roles_leave_them_out_and_merged_is_adapted() -> None:
    model = mamba()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    assert {name.rpartition(".")[2] for name in adapter.deltas} == {"in_proj", "x_proj", "out_proj"}
    disturb(adapter)
    ids = torch.arange(3, 12)[None]
    adapted = model(ids).logits
    assert adapter.merge()
    torch.testing.assert_close(model(ids).logits, adapted, atol=1e-5, rtol=1e-5)


def test_biases_of_such_layers_are_left_out() -> None:
    adapter = inlay.attach(mamba(), inlay.BitFit(add_missing=True))
    assert {name.rpartition(".")[2] for name in adapter.deltas} == {"out_proj"}  # dt_proj's and conv1d's own are read


def test_naming_one_is_refused() -> None:
    with pytest.raises(TargetError, match="'dt_proj' names .*whose weight the model uses without calling the layer"):
        inlay.attach(mamba(), inlay.LoRA(targets=("in_proj", "dt_proj")))
    with pytest.raises(TargetError, match=r"method.include fits .*dt_proj.weight, which the model uses without"):
        inlay.attach(mamba(), inlay.Pattern(include=(r".*dt_proj\.weight",)))
    with pytest.raises(TargetError, match="'shared' names shared"):
        inlay.attach(SHAPES["t5"].model(), inlay.LoRA(targets=("shared",)))


def through_trainer(model: Any, x: Tensor) -> None:
    model(x).square().mean().backward()


def through_checkpointing(model: Any, x: Tensor) -> None:
    checkpoint(model, x, use_reentrant=False).square().mean().backward()


@pytest.mark.parametrize("loop", [through_trainer, through_checkpointing])
def test_the_first_pass_finds_one_and_only_that(loop: Any) -> None:
    model, _ = mixed()
    with torch.no_grad():
        model(torch.ones(2, 6))
    for _ in range(2):  # until it is detached
        with pytest.raises(InertAdapter, match="uses the weights of read without calling"):
            loop(model, torch.ones(2, 6))
    model, adapter = mixed("called", "tower", "experts.0", "experts.1")
    loop(model, torch.ones(2, 6))
    assert not any(m._forward_hooks for n, m in model.named_modules() if n not in adapter.deltas)


def test_a_call_that_goes_past_the_model_is_watched_part_by_part() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Mixed()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model = Outer()
    disturb(inlay.attach(model, inlay.LoRA(rank=2, targets=NAMES)))
    loss = model.forward(torch.ones(2, 6)).square().mean()
    with pytest.raises(InertAdapter, match=r"weights of inner\.read"):
        loss.backward()


def test_frozen_or_unused_parts_and_tied_copies_are_no_fault(shape: Shape) -> None:
    model = shape.model()
    inlay.attach(model, inlay.Pattern(include=(r".*(shared|wte|embed_tokens|word_embeddings)\.weight",)))
    logits(model, shape).sum().backward()
    assert not model._inlay.watch.is_open


def test_full_fine_tuning_trains_what_is_read() -> None:
    torch.manual_seed(0)
    model = Mixed()
    inlay.attach(model, inlay.Full())
    model(torch.ones(2, 6)).sum().backward()
    assert model.read.weight.grad is not None


def test_check_names_every_one_and_leaves_no_gradient() -> None:
    model, adapter = mixed()
    with pytest.raises(InertAdapter, match="weights of read "):
        adapter.check(torch.ones(2, 6))
    assert all(p.grad is None for p in model.parameters())
    model, adapter = mixed("called", "tower", "experts.0", "experts.1")
    kept = [torch.ones_like(p) for p in adapter.parameters()]
    for p, g in zip(adapter.parameters(), kept, strict=True):
        p.grad = g
    state = torch.random.get_rng_state()
    for batch in ({"x": torch.ones(2, 6)}, (torch.ones(2, 6),), torch.ones(2, 6)):
        checked = adapter.check(batch)
        assert checked.idle == ["tower", "experts.1"]
        assert checked.without_gradient == []
        assert checked.loss > 0
    assert all(p.grad is g for p, g in zip(adapter.parameters(), kept, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_merging_one_is_undone_and_refused() -> None:
    model, adapter = mixed("called", "read")
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(VerificationFailed, match="would compute something else"):
        adapter.merge(batch=torch.randn(3, 6))
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    model, adapter = mixed("called")
    model.train()
    assert not adapter.merge()  # it reads no tokens, so nothing could be run
    adapter.unmerge()
    assert adapter.merge(batch=torch.randn(3, 6))
    assert model.training
    assert model.called.training


def test_stacks_that_are_all_read_from_outside_are_left_out_though_their_module_is_called() -> None:
    model = build("dbrx")
    assert {name.rpartition(".")[2] for name in bypassed_in(model)} == {"mlp"}
    adapter = inlay.attach(model, inlay.LastLayers(layers=1))
    assert not any(name.endswith("experts.mlp") for name in adapter.deltas)
