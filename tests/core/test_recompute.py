"""Recomputed activations: less is kept, and every gradient has the same bits."""

import copy
import threading
from contextvars import ContextVar
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.batches.chunked_loss import causal_loss, trained_tokens
from inlay.batches.packing import packed, padded
from inlay.data.settings import DataSettings
from inlay.errors import InertAdapter, SettingsError
from inlay.models.document_attention import attend_by_document
from inlay.models.recompute import Recomputing, chosen
from inlay.models.sites import Sites
from inlay.training.settings import Recipe

from ..batches.texts import some_texts
from ..shapes import SHAPES, Shape, disturb, logits, method

DROPOUT = {
    "llama": {"attention_dropout": 0.1},
    "bert": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "t5": {"dropout_rate": 0.1},
}


def dropping(shape: Shape) -> Any:
    """The small model with dropout, in training."""
    model_class: Any = shape.model_class
    torch.manual_seed(0)
    return model_class(type(shape.config)(**shape.config.to_dict() | DROPOUT[shape.name])).train()


def step(model: Any, shape: Shape) -> tuple[dict[str, Tensor], int]:
    """The gradients of a step, and the bytes that were kept for its backward pass."""
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    torch.manual_seed(1)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        if shape.name == "bert":
            loss = model(**shape.inputs(), labels=torch.arange(4) % 3).loss
        else:
            batch = padded(some_texts((9, 7, 3)))
            loss = causal_loss(model, batch, trained_tokens(batch))
    loss.backward()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradients, sum(size for at, size in kept.items() if at not in own)


CASES = [(name, shape, "all") for name in inlay.METHODS for shape in DROPOUT]
CASES += [(name, shape, asked) for name in ("lora", "parallel") for shape in DROPOUT for asked in ("feed-forward", "1")]


@pytest.mark.parametrize(("name", "shape", "asked"), CASES)
def test_gradients_have_the_same_bits_and_less_is_kept(name: str, shape: str, asked: str) -> None:
    small = SHAPES[shape]
    model = dropping(small)
    adapter = inlay.attach(model, method(name, small))
    disturb(adapter)
    expected, before = step(model, small)
    recomputing = Recomputing(chosen(Sites(model), asked))
    found, kept = step(model, small)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept < before
    recomputing.undo()
    assert step(model, small)[1] == before


@pytest.mark.parametrize("name", ["lora", "prefix", "dora"])
def test_packed_texts_are_found_again(name: str) -> None:
    model, batch, found = SHAPES["llama"].model().train(), packed(some_texts((9, 7, 3, 5)), 12), []
    adapter = inlay.attach(model, method(name, SHAPES["llama"]))
    disturb(adapter)
    assert attend_by_document(model)
    for asked in ("none", "all"):
        recomputing = Recomputing(chosen(Sites(model), asked))
        model.zero_grad()
        causal_loss(model, batch, 1).backward()
        found.append([p.grad for p in adapter.parameters() if p.grad is not None])
        recomputing.undo()
    model.config._attn_implementation = "sdpa"
    assert all(map(torch.equal, *found))


def test_the_second_run_has_the_context_of_the_first() -> None:
    seen, variable = [], ContextVar("variable", default="outside")

    class Block(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(variable.get())
            return super().forward(input).tanh()

    block = Block(2, 2)
    Recomputing([block])
    token = variable.set("inside")
    result = block(torch.ones(1, 2)).sum()
    variable.reset(token)
    thread = threading.Thread(target=result.backward)
    thread.start()
    thread.join()
    assert seen == ["inside", "inside"]


def test_a_bypass_is_still_noticed() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.layers
            return second(nn.functional.linear(x, first.weight, first.bias).tanh())

    model = Past()
    inlay.attach(model, inlay.LoRA(targets=("layers.0", "layers.1")))
    Recomputing(model.layers)
    with pytest.raises(InertAdapter, match="layers.0"):
        model(torch.ones(1, 4)).sum().backward()


def test_a_copy_and_a_saved_model_are_as_they_would_be_without() -> None:
    model = SHAPES["llama"].model()
    expected = logits(model, SHAPES["llama"])
    Recomputing(chosen(Sites(model), "all"))
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, SHAPES["llama"]), expected)
    layers: Any = other.model.layers
    assert layers[0].__dict__["forward"].module is layers[0]
    assert model.state_dict().keys() == other.state_dict().keys()


def test_what_cannot_be_recomputed_is_an_error() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "ffn_dim": 48}
    opt = transformers.OPTForCausalLM(transformers.OPTConfig(**small, word_embed_proj_dim=32))
    for asked, model, words in (
        ("feed-forward", opt, "OPTForCausalLM have no modules that are their feed-forwards; take all"),
        ("3", opt, "recompute is 3, and OPTForCausalLM has 2 blocks"),
        ("all", nn.Linear(2, 2), "no blocks are found in Linear"),
    ):
        with pytest.raises(SettingsError, match=words):
            chosen(Sites(model), asked)
    for asked in ("some", "0", "-1", "1.5", ""):
        with pytest.raises(SettingsError, match="recompute is"):
            Recipe(model="m", data=DataSettings(path="d"), recompute=asked)
