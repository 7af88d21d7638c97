"""Modules trained whole beside an adapter."""

import pytest
import torch

import inlay
from inlay.core.state import SLOT
from inlay.errors import TargetError

from ..shapes import Shape, logits
from .test_adapter import BERT, lora


def test_a_classifier_trains_its_head_and_a_language_model_has_none(shape: Shape) -> None:
    heads = {"bert": ("classifier",), "t5": ("classification_head",)}.get(shape.name, ("score",))
    adapter = inlay.attach(shape.classifier(), inlay.LoRA(rank=2))
    assert adapter.heads == heads
    assert {n for n, _ in adapter.named_parameters() if n.startswith(heads)} == {
        n for n, _ in adapter.model.named_parameters() if n.startswith(heads) and SLOT not in n
    }
    if shape.generates:
        assert inlay.attach(shape.model(), inlay.LoRA(rank=2)).heads == ()


def test_no_heads_can_be_asked_for() -> None:
    model = BERT.classifier()
    adapter = inlay.attach(model, inlay.LoRA(rank=2), heads=())
    assert not any(n.startswith("classifier") for n, _ in adapter.named_parameters())
    assert not any(p.requires_grad for p in model.classifier.parameters())


def test_other_modules_can_be_heads() -> None:
    """PEFT bug 5: a misspelled name in modules_to_save is ignored."""
    model = BERT.classifier()
    adapter = inlay.attach(model, inlay.LoRA(rank=2), heads=("bert.pooler", "classifier"))
    names = {n for n, _ in adapter.named_parameters()}
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"} <= names
    assert "bert.pooler.dense.lora_A" not in names
    with pytest.raises(TargetError, match=r"head 'bert\.poler' is no module"):
        inlay.attach(model, inlay.LoRA(rank=2), "b", heads=("classifier", "bert.poler"))


def test_each_adapter_has_its_own_head_and_the_base_keeps_its_own() -> None:
    model = BERT.classifier()
    base, head = logits(model, BERT), {n: p.clone() for n, p in model.classifier.named_parameters()}
    a, b = lora(model, "a"), lora(model, "b", 0.3)
    outputs = {}
    for names in ((), ("a",), ("b",)):
        with inlay.using(model, *names):
            outputs[names] = logits(model, BERT)
    torch.testing.assert_close(outputs[()], base)
    assert not torch.allclose(outputs["a",], outputs["b",], atol=1e-3)
    optimizer = torch.optim.SGD(b.parameters(), lr=0.1)
    heads = {n: t.clone() for n, t in a.state_dict().items() if n.startswith("classifier")}
    logits(model, BERT).square().sum().backward()
    optimizer.step()
    assert set(heads) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(a.state_dict()[n], t) for n, t in heads.items())
    assert all(not torch.equal(b.state_dict()[n], t) for n, t in heads.items())
    assert all(torch.equal(dict(model.classifier.named_parameters())[n], p) for n, p in head.items())
    a.detach()
    b.detach()
    assert torch.equal(logits(model, BERT), base)


def test_a_head_learns_in_a_bfloat16_model() -> None:
    """PEFT bug 0: modules_to_save stay in bfloat16, where small steps round away."""
    model = BERT.classifier(torch.bfloat16)
    adapter = lora(model)
    head = adapter.deltas["classifier"]
    start = head.weight.detach().clone()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-5, weight_decay=0)
    logits(model, BERT).float().square().mean().backward()
    optimizer.step()
    assert head.weight.dtype == torch.float32
    assert (head.weight != start).all()
