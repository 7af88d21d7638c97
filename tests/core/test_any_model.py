"""Any module is a host, and the ordinary tools of a training loop work on it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inlay
from inlay.core.slot import Slot
from inlay.errors import CheckpointError, TargetError

from ..shapes import disturb, logits, method
from .test_adapter import LLAMA, lora, mlp


@pytest.mark.parametrize(("name", "more"), [("lora", {"rank": 2}), ("bitfit", {}), ("full", {})])
def test_a_module_of_nobody_s_library_is_a_host(name: str, more: Any, tmp_path: Path) -> None:
    model = mlp()
    x = torch.randn(5, 6)
    before = model(x)
    adapter = inlay.attach(model, inlay.METHODS[name](**more))
    torch.testing.assert_close(model(x), before)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.01)
    for _ in range(3):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.allclose(model(x), before, atol=1e-3)
    adapter.save(tmp_path)
    again = mlp()
    inlay.load(again, tmp_path)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", ["pfeiffer", "prompt"])
def test_a_method_that_needs_a_transformer_says_so(name: str) -> None:
    with pytest.raises(TargetError, match="MLP has no t"):
        inlay.attach(mlp(), inlay.METHODS[name]())


@pytest.mark.parametrize("shape_of_x", [(6,), (5, 6), (2, 3, 6), (2, 3, 2, 6), (0, 6)])
@pytest.mark.parametrize("name", ["lora", "bitfit"])
def test_a_linear_layer_adapts_inputs_of_any_shape(name: str, shape_of_x: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    adapter = inlay.attach(model, inlay.METHODS[name]())
    disturb(adapter)
    x = torch.randn(shape_of_x)
    y = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), y)
    assert y.shape == (*shape_of_x[:-1], 4)


@pytest.mark.parametrize("rows", [None, ["default"] * 5])
def test_a_host_may_be_called_by_keyword(rows: list[str] | None) -> None:
    class ByKeyword(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self[0](input=input)

    model = ByKeyword(nn.Linear(6, 4))
    disturb(inlay.attach(model, inlay.LoRA()))
    x = torch.randn(5, 6)
    host = model[0]
    expected = host(x)
    with inlay.using(model, *([] if rows else ["default"]), rows=rows):
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", inlay.METHODS)
def test_autocast_trains_a_float32_model(name: str) -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, method(name, LLAMA))
    disturb(adapter)
    exact = logits(model, LLAMA)
    with torch.autocast("cpu", torch.bfloat16):
        y = logits(model, LLAMA)
        y.float().square().mean().backward()
    assert (y.float() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in adapter.parameters())


def test_ordinary_tools_of_a_training_loop_work() -> None:
    model = LLAMA.model().train()
    adapter = lora(model)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    logits(model, LLAMA).square().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm > 1e-3
    total = torch.stack([p.grad.norm() for p in adapter.parameters()]).norm()
    torch.testing.assert_close(total, torch.tensor(1e-3), atol=1e-6, rtol=1e-3)
    start = {n: p.clone() for n, p in adapter.named_parameters()}
    optimizer.step()
    assert all(not torch.equal(p, start[n]) for n, p in adapter.named_parameters())
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in base.items())
    model.eval()
    assert not any(m.training for m in model.modules())
    assert len(optimizer.state) == len(list(adapter.parameters()))


@pytest.mark.parametrize("dumps", [pickle.dumps, None])
def test_a_model_with_an_adapter_can_be_pickled(dumps: Any, tmp_path: Path) -> None:
    model = LLAMA.model()
    base = logits(model, LLAMA)
    adapter = lora(model)
    y = logits(model, LLAMA)
    if dumps:
        twin = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, tmp_path / "model.pt")
        twin = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(logits(twin, LLAMA), y)
    disturb(adapter)
    assert torch.equal(logits(twin, LLAMA), y)
    with inlay.using(twin):
        torch.testing.assert_close(logits(twin, LLAMA), base)
    loaded = inlay.adapters(twin)["default"]
    assert loaded.model is twin
    loaded.merge()
    torch.testing.assert_close(logits(twin, LLAMA), y, atol=1e-5, rtol=1e-5)
    loaded.detach()
    torch.testing.assert_close(logits(twin, LLAMA), base)
    assert not any(isinstance(m, Slot) for m in twin.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())


def test_moving_and_casting_the_model_moves_the_adapter() -> None:
    model = mlp()
    adapter = lora(model)
    model.double()
    assert all(p.dtype == torch.float64 for p in adapter.parameters())
    model.to("meta")
    assert all(p.is_meta for p in adapter.parameters())


def test_state_dict_of_the_adapter_is_its_own_tensors_by_host() -> None:
    model = mlp()
    adapter = lora(model)
    assert list(adapter.state_dict()) == ["first.lora_A", "first.lora_B", "last.lora_A", "last.lora_B"]
    assert [n for n, _ in adapter.named_parameters()] == list(adapter.state_dict())
    assert repr(adapter).startswith("Adapter('default', LoRA(")
    assert "rank=2, alpha=4" in repr(adapter)
    assert repr(adapter).endswith("2 hosts in MLP)")


def test_tensors_that_do_not_fit_are_refused_and_none_is_loaded() -> None:
    model = mlp()
    adapter = lora(model)
    state = {n: t.clone() for n, t in adapter.state_dict().items()}
    wrong = {n: t + 1 for n, t in state.items() if n != "last.lora_B"} | {"other.lora_A": torch.zeros(1)}
    wrong["first.lora_A"] = torch.zeros(3, 6)
    with pytest.raises(CheckpointError) as caught:
        adapter.load_state_dict(wrong)
    assert str(caught.value) == (
        "the tensors do not fit adapter 'default': first.lora_A has shape (3, 6), its place (2, 6); "
        "last.lora_B is missing; other.lora_A has no place"
    )
    assert all(torch.equal(t, state[n]) for n, t in adapter.state_dict().items())
