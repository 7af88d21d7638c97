"""The life of an adapter: what is refused leaves the model alone, and what is done can be undone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.attached.adapter import plan_attach
from inlay.core.state import SLOT, commit
from inlay.errors import AdapterStateError, InvalidRequest, TargetError

from ..shapes import SHAPES, disturb, logits, method

LLAMA, BERT = SHAPES["llama"], SHAPES["bert"]


class MLP(nn.Module):
    """A model of nobody's library: no configuration, no base_model, no embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.relu(self.first(x))))


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP().eval()


def lora(model: nn.Module, name: str = "default", scale: float = 0.1, **more: Any) -> inlay.Adapter:
    adapter = inlay.attach(model, inlay.LoRA(rank=2, alpha=4), name, **more)
    disturb(adapter, scale)
    return adapter


def state_of(model: nn.Module, run: Callable[[], Tensor]) -> tuple[Any, ...]:
    hooks = [(n, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    parameters = {n: (p.requires_grad, p.dtype, p.detach().clone().tolist()) for n, p in model.named_parameters()}
    with torch.no_grad():
        return hooks, parameters, run().tolist(), {n: a.name for n, a in inlay.adapters(model).items()}


# What is refused changes nothing


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("default", "already has an adapter 'default'; detach it or choose another name"),
        ("a.b", "adapter name 'a.b': use letters, digits, _ and -"),
        ("", "adapter name ''"),
        ("a b", "use letters"),
        ("ä", "use letters"),
        ("a/b", "use letters"),
        ("forward", "is an attribute of every torch module"),
        ("training", "is an attribute of every torch module"),
        ("add", "is an attribute of every torch module"),
        ("hooks", "is an attribute of every torch module"),
        ("routing", "is an attribute of every torch module"),
        ("parameters", "is an attribute of every torch module"),
        ("_modules", "is an attribute of every torch module"),
        ("_parameters", "is an attribute of every torch module"),
        ("_forward_hooks", "is an attribute of every torch module"),
        ("__class__", "is an attribute of every torch module"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_changes_nothing(name: str, message: str) -> None:
    model = LLAMA.model()
    lora(model)
    before = state_of(model, lambda: logits(model, LLAMA))
    with pytest.raises(AdapterStateError, match=message):
        inlay.attach(model, inlay.LoRA(), name)
    assert state_of(model, lambda: logits(model, LLAMA)) == before


@pytest.mark.parametrize(
    ("adapter", "heads", "message"),
    [
        (inlay.LoRA(targets=("q_porj",)), None, "did you mean q_proj"),
        (inlay.LoRA(targets=("q_proj", "nothing")), None, "'nothing' match no module"),
        (inlay.LoRA(rank_pattern={"proj": 3}), None, "pattern 'proj' fits none of the 14 modules"),
        (inlay.LoRA(alpha_pattern={"layers.2.*": 3}), None, r"pattern 'layers\.2\.\*' fits none"),
        (inlay.BitFit(), None, "has no biases to train; set method.add_missing"),
        (
            inlay.PromptTuning(tokens=51, initialization="vocabulary"),
            None,
            "method.tokens is 51, more than the vocabulary of 50",
        ),
        (inlay.LoRA(), ("socre",), r"head 'socre' is no module of .*; did you mean score\?"),
        (inlay.LoRA(targets=("score",)), None, "trained whole as the model's head"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_and_changes_nothing(adapter: Any, heads: Any, message: str) -> None:
    model = LLAMA.classifier()
    before = state_of(model, lambda: logits(model, LLAMA))
    with pytest.raises(InvalidRequest, match=message):
        inlay.attach(model, adapter, heads=heads)
    assert state_of(model, lambda: logits(model, LLAMA)) == before
    assert "_inlay" not in model.__dict__


def test_attach_does_not_change_the_method() -> None:
    """PEFT bug 11: all-linear becomes a set of names in the configuration, which then fits no other architecture."""
    adapter = inlay.LoRA(rank=2)
    for shape in SHAPES.values():
        inlay.attach(shape.model(), adapter)
        assert adapter == inlay.LoRA(rank=2)
        assert adapter.targets == ("all-linear",)


def test_a_prepared_adapter_is_not_in_the_model_until_it_joins() -> None:
    model = LLAMA.model()
    before = state_of(model, lambda: logits(model, LLAMA))
    adapter = plan_attach(model, inlay.LoRA(rank=2))
    disturb(adapter)
    assert state_of(model, lambda: logits(model, LLAMA)) == before
    commit(adapter)
    assert inlay.adapters(model) == {"default": adapter}
    assert state_of(model, lambda: logits(model, LLAMA)) != before


@pytest.mark.parametrize("own", [nn.Linear(2, 2), "mine", None, 0])
def test_a_host_with_an_attribute_of_that_name_is_refused(own: Any) -> None:
    model = mlp()
    setattr(model.first, SLOT, own)
    with pytest.raises(TargetError, match=f"first has an attribute '{SLOT}' of its own"):
        inlay.attach(model, inlay.LoRA(targets=("first", "last")))
    assert getattr(model.first, SLOT) is own
    assert not hasattr(model.last, SLOT)
    assert not model.last._forward_hooks
    inlay.attach(model, inlay.LoRA(targets=("last",))).detach()


def test_a_base_method_refuses_company_and_changes_nothing() -> None:
    model = LLAMA.model()
    lora(model)
    before = state_of(model, lambda: logits(model, LLAMA))
    with pytest.raises(AdapterStateError, match="full trains the base itself; detach default first"):
        inlay.attach(model, inlay.Full(), "all")
    assert state_of(model, lambda: logits(model, LLAMA)) == before


# Merging


def test_merging_twice_is_refused_and_changes_nothing() -> None:
    model = LLAMA.model()
    a, b = lora(model, "a"), lora(model, "b", 0.2)
    a.merge()
    before = state_of(model, lambda: merged_logits(model))
    for adapter in (a, b):
        with pytest.raises(AdapterStateError, match="adapter 'a' is merged already; unmerge it first"):
            adapter.merge()
    with pytest.raises(AdapterStateError, match="adapter 'a' is merged; unmerge it before attaching another"):
        lora(model, "c")
    with pytest.raises(AdapterStateError, match="adapter 'b' is not merged"):
        b.unmerge()
    assert state_of(model, lambda: merged_logits(model)) == before
    a.unmerge()
    with pytest.raises(AdapterStateError, match="adapter 'a' is not merged"):
        a.unmerge()


def merged_logits(model: nn.Module) -> Tensor:
    return model(**LLAMA.inputs()).logits


def test_a_merged_adapter_and_another_one_both_count() -> None:
    model = LLAMA.model()
    a = lora(model, "a")
    lora(model, "b", 0.2)
    with inlay.using(model, "a", "b"):
        expected = logits(model, LLAMA)
    with inlay.using(model, "b"):
        only_b = logits(model, LLAMA)
    a.merge()
    with inlay.using(model, "a", "b"):
        torch.testing.assert_close(logits(model, LLAMA), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(AdapterStateError, match="'a' is merged into the base's weights"), inlay.using(model, "b"):
        pass
    a.unmerge()
    with inlay.using(model, "b"):
        assert torch.equal(logits(model, LLAMA), only_b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_merged_weights_are_rounded_once(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    adapter = lora(model)
    base = model.first.weight.detach().clone()
    delta = adapter.deltas["first"]
    exact = torch.promote_types(dtype, torch.float32)
    product = delta.lora_B.to(torch.float32) @ delta.lora_A.to(torch.float32)
    expected = (base.to(exact) + 2.0 * product).to(dtype)  # s = alpha / rank = 2
    adapter.merge()
    assert torch.equal(model.first.weight, expected)
    assert model.first.weight.dtype == dtype
    adapter.unmerge()
    assert torch.equal(model.first.weight, base)


def test_detaching_a_merged_adapter_restores_the_base_exactly() -> None:
    model = LLAMA.model()
    before = state_of(model, lambda: logits(model, LLAMA))
    adapter = lora(model)
    adapter.merge()
    adapter.detach()
    assert state_of(model, lambda: logits(model, LLAMA)) == before


def test_a_detached_adapter_cannot_be_merged_into_the_model_that_it_left() -> None:
    model = LLAMA.model()
    a = lora(model, "a")
    lora(model, "b")
    a.detach()
    before = state_of(model, lambda: logits(model, LLAMA))
    with pytest.raises(AdapterStateError, match="adapter 'a' is not attached"):
        a.merge()
    assert state_of(model, lambda: logits(model, LLAMA)) == before


def test_merging_tied_weights_is_refused_and_names_both_modules() -> None:
    """PEFT bug 16: merging into a tied output projection rewrites the input embedding as well."""
    model = SHAPES["gpt2"].model()
    assert model.lm_head.weight is model.transformer.wte.weight
    for target in ("lm_head", "wte"):
        adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=(target, "c_fc")), target)
        disturb(adapter)
        before = state_of(model, lambda: logits(model, SHAPES["gpt2"]))
        with pytest.raises(AdapterStateError, match="transformer.wte and lm_head share one weight, so merging would"):
            adapter.merge()
        assert state_of(model, lambda: logits(model, SHAPES["gpt2"])) == before
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    adapter.merge()


def test_what_changes_activations_cannot_be_merged() -> None:
    model = BERT.model()
    adapter = inlay.attach(model, method("pfeiffer", BERT))
    with pytest.raises(AdapterStateError, match="pfeiffer changes activations, not weights, so it cannot be merged"):
        adapter.merge()


# Detaching


def test_detaching_twice_is_refused() -> None:
    model = LLAMA.model()
    a = lora(model, "a")
    a.detach()
    with pytest.raises(AdapterStateError, match="LlamaForCausalLM has no adapters; attach one first"):
        a.detach()
    b = lora(model, "a")
    with pytest.raises(AdapterStateError, match="adapter 'a' is not attached"):
        a.detach()
    assert inlay.adapters(model) == {"a": b}


def test_detaching_one_of_several_leaves_the_others_and_their_flags() -> None:
    """PEFT bug 3: a name that is part of other names switches off the training of another adapter."""
    model = LLAMA.model().requires_grad_(False)
    a, b = lora(model, "layers"), lora(model, "a", 0.2)
    y = logits(model, LLAMA)
    assert all(p.requires_grad for adapter in (a, b) for p in adapter.parameters())
    a.detach()
    assert torch.equal(logits(model, LLAMA), y)
    assert all(p.requires_grad for p in b.parameters())
    assert not any(f"{SLOT}.layers." in name for name, _ in model.named_parameters())
    c = lora(model, "lora_A")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{n.rpartition('.')[0]}.{SLOT}.{adapter.name}.{n.rpartition('.')[2]}"
        for adapter in (b, c)
        for n, _ in adapter.named_parameters()
    }


def test_the_flags_of_the_base_come_back_as_they_were() -> None:
    model = LLAMA.model()
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 == 0)
    flags = [p.requires_grad for p in model.parameters()]
    a, b = lora(model, "a"), lora(model, "b")
    a.detach()
    assert not any(p.requires_grad for n, p in model.named_parameters() if SLOT not in n)
    b.detach()
    assert [p.requires_grad for p in model.parameters()] == flags


def test_an_adapter_can_be_attached_again_after_detaching() -> None:
    model = LLAMA.model()
    a = lora(model)
    state, y = {n: t.clone() for n, t in a.state_dict().items()}, logits(model, LLAMA)
    a.detach()
    inlay.attach(model, a.method).load_state_dict(state)
    assert torch.equal(logits(model, LLAMA), y)
