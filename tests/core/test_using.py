"""Which adapters run: names, rows of a batch, nested blocks, and what an exception leaves behind."""

from pathlib import Path

import pytest
import torch

import inlay
from inlay.errors import AdapterStateError

from ..shapes import disturb, logits, method
from .test_adapter import LLAMA, lora, mlp


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    model = LLAMA.model()
    lora(model, "english")
    lora(model, "german")
    y = logits(model, LLAMA)
    for names, rows in ((("germam",), None), ((), ["germam", None, None, "english"])):
        with pytest.raises(AdapterStateError, match=r"no adapter 'germam' is attached; did you mean german\?"):
            with inlay.using(model, *names, rows=rows):
                pass
    with pytest.raises(AdapterStateError, match="no adapter 'x' is attached; known: english, german"):
        with inlay.using(model, "x"):
            pass
    assert torch.equal(logits(model, LLAMA), y)


def test_names_and_rows_together_are_refused() -> None:
    model = LLAMA.model()
    lora(model, "a")
    with pytest.raises(AdapterStateError, match="name adapters for the whole batch or for its rows, not both"):
        with inlay.using(model, "a", rows=["a", None, None, None]):
            pass


@pytest.mark.parametrize("rows", [[], ["a"], ["a"] * 3, ["a"] * 5, [None] * 3 + ["a"] * 2])
def test_a_wrong_number_of_rows_is_refused(rows: list[str | None]) -> None:
    model = LLAMA.model()
    lora(model, "a")
    y = logits(model, LLAMA)
    if rows:
        with inlay.using(model, rows=rows):
            with pytest.raises(AdapterStateError, match=f"names {len(rows)} rows; .* got a batch of 4"):
                logits(model, LLAMA)
    else:
        with inlay.using(model, rows=rows):
            assert not torch.equal(logits(model, LLAMA), y)
    assert torch.equal(logits(model, LLAMA), y)


def test_each_row_gets_its_own_change_where_only_some_layers_are_adapted() -> None:
    """Rows swapped in every layer of a block come out in order again, so all of them must not be adapted here."""
    model = LLAMA.model()
    ys = {None: logits(model, LLAMA)}
    for name in ("a", "b"):
        disturb(inlay.attach(model, inlay.LoRA(rank=2, targets=("up_proj",)), name), {"a": 0.2, "b": 0.4}[name])
        ys[name] = logits(model, LLAMA)
    for rows in (["a", "b", None, "a"], ["b", "b", "a", "a"], [None, None, None, "b"], ["a"] * 4, [None] * 4):
        with inlay.using(model, rows=rows):
            expected = torch.stack([ys[name][i] for i, name in enumerate(rows)])
            torch.testing.assert_close(logits(model, LLAMA), expected, atol=1e-5, rtol=1e-5)


def test_using_without_adapters_is_refused() -> None:
    with pytest.raises(AdapterStateError, match="MLP has no adapters; attach one first"), inlay.using(mlp()):
        pass


def test_nested_using_restores_in_order() -> None:
    """PEFT bug 18: nested blocks without adapters switch them on again too early, and two names are a TypeError."""
    model = LLAMA.model().requires_grad_(False)
    base = logits(model, LLAMA)
    lora(model, "a")
    ya = logits(model, LLAMA)
    lora(model, "b", 0.2)
    yb = logits(model, LLAMA)
    with inlay.using(model):
        with inlay.using(model):
            assert torch.equal(logits(model, LLAMA), base)
        assert torch.equal(logits(model, LLAMA), base)
        with inlay.using(model, rows=["a", "b", None, "a"]):
            mixed = logits(model, LLAMA)
            torch.testing.assert_close(mixed, torch.stack([ya[0], yb[1], base[2], ya[3]]), atol=1e-5, rtol=1e-5)
            with inlay.using(model, "b"):
                assert torch.equal(logits(model, LLAMA), yb)
                with inlay.using(model, "a", "b"):
                    both = logits(model, LLAMA)
                assert torch.equal(logits(model, LLAMA), yb)
            assert torch.equal(logits(model, LLAMA), mixed)
        assert torch.equal(logits(model, LLAMA), base)
    assert torch.equal(logits(model, LLAMA), yb)
    with inlay.using(model, "a"):
        assert torch.equal(logits(model, LLAMA), ya)
    assert not any(torch.allclose(both, y, atol=1e-3) for y in (ya, yb, base))


def test_adapters_of_different_methods_live_in_one_model_and_are_saved_apart(tmp_path: Path) -> None:
    """PEFT bug 18: a model with adapters of different kinds cannot be saved."""
    model = LLAMA.model()
    expected = {}
    for name in ("lora", "prompt", "bitfit", "pfeiffer"):
        disturb(inlay.attach(model, method(name, LLAMA), name))
        expected[name] = logits(model, LLAMA)
    for name, adapter in inlay.adapters(model).items():
        adapter.save(tmp_path / name)
    again = LLAMA.model()
    for name in reversed(expected):
        inlay.load(again, tmp_path / name, name)
    for name, y in expected.items():
        with inlay.using(again, name):
            assert torch.equal(logits(again, LLAMA), y)


def test_an_exception_inside_using_leaves_nothing_behind() -> None:
    """PEFT bug 4: an exception in a forward with an adapter per row leaves its hooks behind."""
    model = LLAMA.model()
    lora(model, "a")
    lora(model, "b", 0.2)
    y = logits(model, LLAMA)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(IndexError), inlay.using(model, rows=["a", "b", None, None]):
        logits(model, LLAMA, input_ids=torch.full((4, 7), 99))
    with pytest.raises(ZeroDivisionError), inlay.using(model, "a"):
        raise ZeroDivisionError
    assert torch.equal(logits(model, LLAMA), y)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


@pytest.mark.parametrize("name", ["bitfit", "full"])
def test_a_host_that_raises_gets_its_own_parameters_back(name: str) -> None:
    model = mlp().to(torch.bfloat16)
    adapter = inlay.attach(model, inlay.METHODS[name]())
    disturb(adapter)
    y = model(torch.ones(2, 6, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="normalized_shape"):
        model.norm(torch.ones(2, 5, dtype=torch.bfloat16))
    assert not {"weight", "bias"} & model.norm.__dict__.keys()
    assert model.norm.bias is model.norm._parameters["bias"]
    assert torch.equal(model(torch.ones(2, 6, dtype=torch.bfloat16)), y)


def test_two_models_share_nothing() -> None:
    first, second = LLAMA.model(), LLAMA.model()
    base = logits(second, LLAMA)
    one = inlay.LoRA(rank=2)
    a, b = inlay.attach(first, one, "a"), inlay.attach(second, one, "b")
    disturb(a)
    assert torch.equal(logits(second, LLAMA), base)
    assert set(inlay.adapters(first)) == {"a"}
    assert set(inlay.adapters(second)) == {"b"}
    with inlay.using(first):
        disturb(b)
        assert not torch.equal(logits(second, LLAMA), base)
        assert torch.equal(logits(first, LLAMA), base)
    with pytest.raises(AdapterStateError, match="no adapter 'b'"), inlay.using(first, "b"):
        pass
