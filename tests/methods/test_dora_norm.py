"""DoRA's norm: right without a dense weight, and found once a step."""

import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import inlay
from inlay.methods.reparameterized import decomposed
from inlay.models import weights

from ..shapes import disturb
from .dora_hosts import changed, dense, every_host, host_of, one, relative_error
from .test_lora import close
from .test_lora_hosts import Packed

# The norm


def near_parallel(host: nn.Module, delta: Any, left: float) -> None:
    """An update after which every row is `left` times what it was, up to a random part of a hundredth of that."""
    weight = dense(host)
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    rank = len(delta.lora_A)
    with torch.no_grad():
        delta.lora_A.copy_(v[:rank])
        delta.lora_B.copy_((left - 1) / delta.scale * (u * values)[:, :rank])


@every_host
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-4, 0.1, 3.0, 100.0])
def test_the_norm_is_that_of_the_dense_rows(kind: str, dtype: torch.dtype, size: float) -> None:
    for settings in ({}, {"initialization": "pissa"}, {"rank_stabilized": True}):
        host = host_of(kind, dtype)
        _, adapter, delta = one(host, rank=4, **settings)  # type: ignore[arg-type]
        disturb(adapter, size)
        assert relative_error(delta.norms(host), changed(host, delta).norm(dim=1)) < 1e-6


@pytest.mark.parametrize("kind", ["linear", "transposed", "packed"])
@pytest.mark.parametrize("left", [0.9, 0.6, 0.1, 1e-2, 1e-4, -1.0])
def test_the_norm_keeps_its_digits_when_an_update_cancels_the_rows(kind: str, left: float) -> None:
    host = Packed(True, "parameter") if kind == "packed" else host_of(kind)
    if kind == "packed":
        close(weights.read(host)["weight"], host.dense(), 1e-6)
    _, _, delta = one(host, rank=4 if kind == "packed" else 6, alpha=4)
    near_parallel(host, delta, left)
    expected = changed(host, delta).norm(dim=1)
    found = delta.norms(host)
    assert found.max() < 1.01 * abs(left) * dense(host).norm(dim=1).max()
    # A and B are float32, and cancelling leaves no more digits than they have: the oracle has the same A and B
    assert relative_error(found, expected) < (1e-6 if kind != "packed" else 1e-4)


def test_a_large_layer_s_norm_is_right_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_BLOCK", 40)
    for kind in ("linear", "transposed"):
        host = host_of(kind, torch.bfloat16)
        assert len(weights.blocks(weights.read(host)["weight"])) == 2
        _, adapter, delta = one(host, rank=3)
        disturb(adapter)
        assert relative_error(delta.norms(host), changed(host, delta).norm(dim=1)) < 1e-6


class Shapes(TorchDispatchMode):
    """The shapes and dtypes of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = func.is_view if hasattr(func, "is_view") else False
        self.seen += [(tuple(t.shape), t.dtype) for t in tree_leaves(result) if isinstance(t, Tensor) and not is_view]
        return result


def test_neither_the_changed_weight_nor_a_second_copy_of_the_weight_is_formed() -> None:
    host = nn.Linear(40, 30)
    model, adapter, delta = one(host, rank=4)
    disturb(adapter, 0.01)
    x = torch.randn(7, 40)
    model(x)
    with torch.no_grad():
        delta.lora_B += 0.01
    with Shapes() as shapes:
        model(x).sum().backward()
    assert not {shape for shape, _ in shapes.seen} & {(30, 40), (40, 30), (40, 40)}
    assert (4, 30) in {shape for shape, _ in shapes.seen}  # M' was formed, in this call


@pytest.mark.parametrize("weight", ["parameter", "buffer", "another name"])
def test_a_packed_host_is_run_and_never_unpacked_again(weight: str) -> None:
    host = Packed(True, weight)
    model, adapter, delta = one(host, rank=2, alpha=4)
    disturb(adapter, 0.05)
    dense_OI = host.dense().double()
    x = torch.randn(5, 6)
    model(x)
    rows = []
    plain = host.forward
    host.forward = lambda x: (rows.append(len(x)), plain(x))[1]  # type: ignore[method-assign]
    with torch.no_grad():
        delta.lora_B += 0.01
    v = dense_OI + 2 * (delta.lora_B @ delta.lora_A).double()
    expected = F.linear(x.double(), (delta.lora_magnitude_vector / v.norm(dim=1))[:, None] * v, host.bias.double())
    close(model(x).double(), expected, 1e-5)
    assert rows == [5, 2]  # the input, and A


def test_the_norm_is_the_same_under_autocast() -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=4)
    disturb(adapter)
    with torch.autocast("cpu", torch.bfloat16):
        found = delta.norms(host)
        model(torch.randn(3, 9))
    assert relative_error(found, changed(host, delta).norm(dim=1)) < 1e-6


# What is kept between calls


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    sums, squares = decomposed.Decomposed._norms, decomposed.row_squares
    monkeypatch.setattr(decomposed.Decomposed, "_norms", lambda *a: (calls.append("sum"), sums(*a))[1])
    monkeypatch.setattr(decomposed, "row_squares", lambda host: (calls.append("base"), squares(host))[1])
    return calls


STEPS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),  # raises no version of what it changes
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "loop": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
}


class Behind(torch.optim.Optimizer):
    """Writes as 8-bit optimizers do, without autograd's knowledge."""

    def __init__(self, parameters: Any):
        super().__init__(parameters, {})

    def step(self) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.detach().numpy()[:] += 0.1 * p.grad.sign().numpy()


@pytest.mark.parametrize("optimizer", [*STEPS, "behind"])
def test_the_norm_is_found_once_a_step_whatever_the_optimizer(optimizer: str, counted: list[str]) -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=4)
    steps = STEPS.get(optimizer, Behind)(adapter.parameters())
    disturb(adapter)
    counted.clear()
    x = torch.randn(4, 9)
    for _ in range(3):
        model(x).square().sum().backward()
        steps.step()
        steps.zero_grad()
        expected = changed(host, delta).norm(dim=1)
        with torch.no_grad():
            model(x)
            model(x)
            assert relative_error(delta.norms(host), expected) < 1e-6
    assert counted.count("sum") == 4
    assert counted.count("base") == 1


def test_a_base_that_has_not_changed_is_read_once(counted: list[str]) -> None:
    model, _, _ = one(host_of("linear"), rank=4)
    for _ in range(4):
        model(torch.randn(3, 9))
    assert counted == ["base", "base", "sum"]  # when it was attached, and when it first ran


@pytest.mark.parametrize("way", ["add", "copy", "data", "data of the base", "load", "base", "dtype", "new"])
def test_another_value_is_noticed(way: str) -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=4)
    disturb(adapter)
    model(torch.randn(3, 9))
    stale = delta.norms(host)
    with torch.no_grad():
        if way == "add":
            delta.lora_A += 1
        elif way == "copy":
            delta.lora_B.copy_(torch.randn(6, 4))
        elif way == "data":
            delta.lora_B.data = torch.randn(6, 4)
        elif way == "data of the base":
            host.weight.data = torch.randn(6, 9)
        elif way == "load":
            adapter.load_state_dict({n: t + 1 for n, t in adapter.state_dict().items()})
        elif way == "base":
            host.weight *= 2
        elif way == "dtype":
            model.to(torch.float64)
        else:
            delta.lora_A = nn.Parameter(torch.randn(4, 9))
    found = delta.norms(host)
    assert relative_error(found, changed(host, delta).norm(dim=1)) < 1e-6
    assert way == "dtype" or not torch.allclose(found, stale)


def test_another_adapter_s_merge_is_noticed() -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=4)
    disturb(adapter)
    x = torch.randn(3, 9)
    model(x)
    other = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), "other")
    disturb(other)
    other.merge()
    with inlay.using(model, "other", "default"):
        close(delta.norms(host).double(), changed(host, delta).norm(dim=1), 1e-5)
        model(x)
    other.unmerge()
    close(delta.norms(host).double(), changed(host, delta).norm(dim=1), 1e-5)


def test_hooks_do_not_pile_up_and_a_copy_has_its_own(counted: list[str]) -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=4)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, fused=True)
    x = torch.randn(4, 9)
    for _ in range(5):
        with torch.no_grad():
            delta.lora_A += 0.01
            model(x)
        model(x).square().sum().backward()
        optimizer.step()
        model(x)
        assert len(delta.lora_B._post_accumulate_grad_hooks) == 1
    twin = copy.deepcopy(model)
    io = BytesIO()
    torch.save(model, io)
    for _ in range(2):
        other = inlay.adapters(twin)["default"]
        optimizer = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
        twin(x).square().sum().backward()
        optimizer.step()
        found = other.deltas["0"].norms(twin[0])
        assert relative_error(found, changed(twin[0], other.deltas["0"]).norm(dim=1)) < 1e-6
    counted.clear()
    model(x)
    assert not counted  # what happens to the copy is nothing to the original


def test_what_was_found_in_inference_mode_serves_training() -> None:
    model, adapter, _ = one(host_of("linear"), rank=4)
    x = torch.randn(3, 9)
    with torch.inference_mode():
        y = model(x)
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    with torch.inference_mode():
        again, other, _ = one(host_of("linear"), rank=4)
        disturb(other)
        first = again(x)
        disturb(other)
        assert not torch.allclose(first, again(x))
    assert y.shape == (3, 6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_forward_finds_the_norm_that_its_first_run_had(reentrant: bool, counted: list[str]) -> None:
    host = host_of("linear")
    model, adapter, _ = one(host, rank=4)
    disturb(adapter)
    x = torch.randn(4, 9, requires_grad=True)
    counted.clear()
    y = checkpoint(model, x, use_reentrant=reentrant)
    y.square().sum().backward()
    gradients = [p.grad.clone() for p in adapter.parameters()]
    assert counted.count("sum") == 1
    model.zero_grad()
    model(x).square().sum().backward()
    for p, gradient in zip(adapter.parameters(), gradients, strict=True):
        close(p.grad, gradient, 1e-6)


def test_a_compiled_graph_is_whole_and_follows_every_step() -> None:
    torch.compiler.reset()
    host = host_of("linear")
    model, adapter, _ = one(host, rank=4)
    disturb(adapter)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, fused=True)
    x = torch.randn(4, 9)
    for _ in range(3):
        close(compiled(x), model(x), 1e-5)
        compiled(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            close(compiled(x), model(x), 1e-5)
