"""Two adapters at once: what replaces one tensor is refused, a merged one keeps its place, rows follow the batch."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.errors import AdapterStateError
from inlay.models import batch_axis

from ..shapes import SHAPES, disturb, logits, method

LLAMA, BERT = SHAPES["llama"], SHAPES["bert"]


@pytest.mark.parametrize(
    ("first", "second", "tensor"),
    [
        (inlay.NormTuning(), inlay.NormTuning(), r"embeddings\.LayerNorm\.weight"),
        (inlay.NormTuning(), inlay.BitFit(), r"embeddings\.LayerNorm\.bias"),
        (inlay.LastLayers(layers=1), inlay.Pattern(include=(r".*1.*query\.weight",)), r"query\.weight"),
        (inlay.LastLayers(layers=1), inlay.Houlsby(size=4), r"LayerNorm\.weight"),
        (inlay.BitFit(), inlay.BitFit(), r"embeddings\.LayerNorm\.bias"),
    ],
)
def test_two_that_replace_one_tensor_are_refused_by_its_name(first: Any, second: Any, tensor: str) -> None:
    model = BERT.model()
    for name, one in (("a", first), ("b", second)):
        disturb(inlay.attach(model, one, name, heads=()))
    y = logits(model, BERT)
    for choose in (inlay.activate, lambda *names: inlay.using(*names).__enter__()):
        with pytest.raises(AdapterStateError, match=rf"'a' and 'b' both have a bert\..*{tensor} of their own"):
            choose(model, "a", "b")
    assert torch.equal(logits(model, BERT), y)


def test_two_heads_are_refused_and_one_counts() -> None:
    model = BERT.classifier()
    disturb(inlay.attach(model, inlay.LoRA(rank=2), "a"))
    disturb(inlay.attach(model, inlay.LoRA(rank=2), "b"))
    disturb(inlay.attach(model, inlay.LoRA(rank=2), "c", heads=()))
    with pytest.raises(AdapterStateError, match=r"both have a classifier\.weight"), inlay.using(model, "a", "b"):
        pass
    with inlay.using(model, "b"):
        one = logits(model, BERT)
    with inlay.using(model, "b", "c"):
        assert not torch.allclose(logits(model, BERT), one, atol=1e-3)


def test_one_named_twice_is_refused() -> None:
    model = LLAMA.model()
    inlay.attach(model, inlay.LoRA(rank=2), "a")
    with pytest.raises(AdapterStateError, match="named twice"), inlay.using(model, "a", "a"):
        pass


def test_whatever_else_is_named_works_on_a_replaced_tensor() -> None:
    """In either order: a head or a block trained whole is where another adapter's change is added."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    whole = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), "head", heads=("1",))
    disturb(whole, 0.3)
    new = inlay.attach(model, inlay.Pattern(include=(r"0\.weight",)), "whole")
    disturb(new, 0.3)
    low = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",), alpha=2), "low", heads=())
    disturb(low, 0.3)
    x = torch.randn(3, 6)
    delta: Any = low.deltas["0"]
    weight = new.deltas["0"].get_parameter("weight") + delta.lora_B @ delta.lora_A
    expected = nn.functional.layer_norm(nn.functional.linear(x, weight, model[0].bias), (6,))
    for names in (("low", "whole"), ("whole", "low")):
        with inlay.using(model, *names):
            torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


PAIRS = ["lora", "dora", "oft", "ia3", "pattern", "norm", "bitfit", "sparse", "vera", "houlsby", "pfeiffer", "prompt"]


@pytest.mark.parametrize("one", [name for name in PAIRS if name not in ("houlsby", "pfeiffer", "prompt")])
@pytest.mark.parametrize("other", PAIRS)
def test_merged_beside_another_it_computes_what_it_did(one: str, other: str) -> None:
    shape = LLAMA if "bitfit" not in (one, other) and "norm" not in (one, other) else BERT
    model = shape.model()
    disturb(inlay.attach(model, method(other, shape), "b", heads=()), 0.2)
    a = inlay.attach(model, method(one, shape), "a", heads=())
    disturb(a, 0.2)
    expected = {}
    for names in (("a", "b"), ("b", "a")):
        try:
            with inlay.using(model, *names):
                expected[names] = logits(model, shape)
        except AdapterStateError:
            return
    with inlay.using(model, "b"):
        alone = logits(model, shape)
    assert a.merge()
    for names, y in expected.items():
        with inlay.using(model, *names):
            torch.testing.assert_close(logits(model, shape), y, atol=2e-5, rtol=2e-5)
    a.unmerge()
    with inlay.using(model, "b"):
        assert torch.equal(logits(model, shape), alone)


def test_an_exception_beside_a_merged_one_leaves_its_weights() -> None:
    model = LLAMA.model()
    a = inlay.attach(model, inlay.LoRA(rank=2), "a")
    disturb(a)
    disturb(inlay.attach(model, inlay.LoRA(rank=2), "b"))
    a.merge()
    y = logits(model, LLAMA)
    hook = model.model.layers[1].mlp.up_proj.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), inlay.using(model, "a", "b"):
        logits(model, LLAMA)
    hook.remove()
    assert torch.equal(logits(model, LLAMA), y)
    assert not any("weight" in m.__dict__ for m in model.modules())


# Rows


def xlnet() -> Any:
    torch.manual_seed(0)
    config = transformers.XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48, dropout=0.0)
    return transformers.XLNetLMHeadModel(config).eval()


class Attends(nn.Module):
    """Attention over tokens that come first, or over rows in one list."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.up, self.down = layout, nn.Linear(6, 6), nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=layout != "time first")

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.layout == "time first":
            h = self.up(x_BTD.transpose(0, 1))
            return self.down(h + self.attention(h, h, h)[0]).transpose(0, 1)
        if self.layout == "one list":
            return self.down(self.up(x_BTD.flatten(0, 1)).view(x_BTD.shape))
        h = self.up(x_BTD)
        return self.down(h + self.attention(h, h, h)[0])


def mixed_rows(model: Any, run: Callable[[], Tensor], rows: list[str | None]) -> tuple[Tensor, Tensor]:
    for name, scale in (("a", 0.3), ("b", 0.6)):
        disturb(inlay.attach(model, inlay.LoRA(rank=2), name), scale)
    each: dict[str | None, Tensor] = {}
    for name in dict.fromkeys(rows):
        with inlay.using(model, *([name] if name else [])):
            each[name] = run()
    with inlay.using(model, rows=rows):
        return run(), torch.stack([each[name][i] for i, name in enumerate(rows)])


@pytest.mark.parametrize("tokens", [4, 3])  # as many as rows, and not
@pytest.mark.parametrize("layout", ["time first", "batch first"])
def test_rows_are_the_batchs_whichever_axis_that_is(layout: str, tokens: int) -> None:
    torch.manual_seed(0)
    model = Attends(layout).eval()
    x = torch.randn(4, tokens, 6)
    y, expected = mixed_rows(model, lambda: model(x), ["a", "b", None, "a"])
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [4, 6])
def test_rows_of_a_transformer_with_time_first(tokens: int) -> None:
    model = xlnet()
    ids = torch.randint(5, 60, (4, tokens), generator=torch.Generator().manual_seed(0))
    y, expected = mixed_rows(model, lambda: model(ids).logits, ["a", None, "b", "b"])
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_equal_rows_get_their_own_adapters() -> None:
    model = Attends("time first").eval()
    x = torch.ones(2, 2, 6)
    y, expected = mixed_rows(model, lambda: model(x), ["a", "b"])
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_tokens_of_all_rows_in_one_list_are_refused() -> None:
    torch.manual_seed(0)
    model = Attends("one list").eval()
    x = torch.randn(4, 3, 6)
    with pytest.raises(AdapterStateError, match="which axis of a result counts the rows, and of that of a Linear"):
        mixed_rows(model, lambda: model(x), ["a", "b", None, "a"])


def test_a_batch_that_comes_time_first_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0).eval()
    x_TBD = torch.randn(2, 2, 6)
    with pytest.raises(AdapterStateError, match="which axis"):
        mixed_rows(model, lambda: model(x_TBD), ["a", "b"])


def test_a_layer_called_alone_is_refused_until_its_model_was_called() -> None:
    torch.manual_seed(0)
    model = Attends("batch first").eval()
    x = torch.randn(2, 3, 6)
    with pytest.raises(AdapterStateError, match="found only in a call of the whole model"):
        mixed_rows(model, lambda: model.up(x), ["a", "b"])
    with inlay.using(model, rows=["a", "b"]):
        model(x)
        y = model.up(x)
    with inlay.using(model, "b"):
        torch.testing.assert_close(y[1], model.up(x)[1], atol=1e-5, rtol=1e-5)


def test_the_axis_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LLAMA.model()
    inlay.attach(model, inlay.LoRA(rank=2), "a")
    calls = itertools.count()
    monkeypatch.setattr(batch_axis, "_learn", lambda *args, own=batch_axis._learn: (next(calls), own(*args)))
    state = torch.random.get_rng_state()
    for _ in range(3):
        with inlay.using(model, rows=["a", None, "a", None]):
            logits(model, LLAMA)
    assert next(calls) == 1
    assert torch.equal(torch.random.get_rng_state(), state)
