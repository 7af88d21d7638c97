"""DoRA against the paper's formula, written out by hand with dense matrices in float64."""

import copy
import math
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
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.core import weights
from inlay.errors import TargetError
from inlay.methods.reparameterized import decomposed

from ..shapes import Shape, disturb, logits
from .test_lora import close, double
from .test_lora_hosts import Packed


def one(host: nn.Module, **settings: Any) -> tuple[nn.Module, inlay.Adapter, Any]:
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.DoRA(targets=("0",), **settings))
    return model, adapter, adapter.deltas["0"]


def host_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    host = {"linear": nn.Linear(9, 6), "no bias": nn.Linear(9, 6, bias=False), "transposed": Conv1D(6, 9)}[kind]
    for p in host.parameters():
        nn.init.normal_(p)
    return host.to(dtype)


def dense(host: nn.Module) -> Tensor:
    return weights.read(host)["weight"].detach().double()


def changed(host: nn.Module, delta: Any) -> Tensor:
    """V = W + s (B A - B0 A0) in float64."""
    change = delta.lora_B.double() @ delta.lora_A.double()
    if delta.start_A is not None:
        change = change - delta.start_B.double() @ delta.start_A.double()
    return (dense(host) + delta.scale * change).detach()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected) / expected).abs().max())


every_host = pytest.mark.parametrize("kind", ["linear", "no bias", "transposed"])


# The formula


@every_host
@pytest.mark.parametrize(("rank", "alpha"), [(1, 3.0), (4, 8.0)])
def test_output_and_gradients_are_the_paper_s_with_a_constant_norm(kind: str, rank: int, alpha: float) -> None:
    host = host_of(kind, torch.float64)
    model, adapter, delta = one(host, rank=rank, alpha=alpha)
    double(adapter)
    disturb(adapter, 0.3)
    x = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 6, dtype=torch.float64)
    y = model(x)
    own = torch.autograd.grad((y * target).sum(), (x, *adapter.parameters()))

    def paper(detached: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        a, b, m = (p.detach().clone().requires_grad_() for p in adapter.parameters())
        v = dense(host) + alpha / rank * b @ a
        norm = v.norm(dim=1, keepdim=True)
        weight = m[:, None] * v / (norm.detach() if detached else norm)
        expected = F.linear(x, weight, getattr(host, "bias", None))
        return expected, torch.autograd.grad((expected * target).sum(), (x, a, b, m))

    assert [n for n, _ in adapter.named_parameters()] == ["0.lora_A", "0.lora_B", "0.lora_magnitude_vector"]
    expected, gradients = paper(detached=True)
    close(y, expected)
    for mine, theirs in zip(own, gradients, strict=True):
        close(mine, theirs)
        assert mine.abs().max() > 1e-2
    _, whole = paper(detached=False)  # the norm's own gradient is not small, and m does not have it
    assert (own[1] - whole[1]).abs().max() > 0.01
    assert (own[2] - whole[2]).abs().max() > 0.01
    close(own[3], whole[3])


@every_host
def test_with_dropout_the_base_s_own_output_is_not_dropped_and_the_corrections_are(kind: str) -> None:
    host = host_of(kind, torch.float64)
    model, adapter, delta = one(host, rank=4, alpha=8, dropout=0.4)
    double(adapter)
    disturb(adapter, 0.3)
    x = torch.randn(5, 9, dtype=torch.float64)
    torch.manual_seed(3)
    y = model.train()(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.4)
    v = changed(host, delta)
    gain = delta.lora_magnitude_vector / v.norm(dim=1)
    base = F.linear(x, dense(host), getattr(host, "bias", None))
    expected = base + (gain - 1) * (dropped @ dense(host).T) + gain * (dropped @ (v - dense(host)).T)
    close(y, expected)
    close(model.eval()(x), F.linear(x, gain[:, None] * v, getattr(host, "bias", None)))


def test_the_rows_of_the_new_weight_have_the_lengths_m(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.DoRA(rank=4))
    disturb(adapter)
    lengths = {n: d.lora_magnitude_vector.abs() for n, _, d in adapter.hosts() if isinstance(d, decomposed.Decomposed)}
    adapter.merge()
    for name, length in lengths.items():
        merged = weights.read(model.get_submodule(name))["weight"]
        assert relative_error(merged.norm(dim=1), length.detach().double()) < 1e-6


def test_scaling_m_scales_the_output_but_not_the_bias() -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=3)
    disturb(adapter)
    x = torch.randn(4, 9)
    y = model(x)
    with torch.no_grad():
        delta.lora_magnitude_vector *= 2.5
    close(model(x) - host.bias, 2.5 * (y - host.bias), 1e-5)


def test_the_count_is_lora_s_and_one_number_for_each_output(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.DoRA(rank=3), heads=())
    sizes = [weights.size(host) for _, host, _ in adapter.hosts()]
    assert sum(p.numel() for p in adapter.parameters()) == sum(3 * (o + i) + o for o, i in sizes)


def test_b_and_m_have_gradients_at_the_first_step_and_a_has_not() -> None:
    model, _, delta = one(host_of("linear"), rank=3)
    model(torch.randn(5, 9)).square().sum().backward()
    assert not delta.lora_A.grad.any()
    assert delta.lora_B.grad.abs().max() > 1e-2
    assert delta.lora_magnitude_vector.grad.abs().min() > 1e-4


# The start


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2}, {"initialization": "pissa"}, {"initialization": "olora"}])
def test_the_start_is_exactly_the_base_in_every_dtype(dtype: torch.dtype, settings: Any, shape: Shape) -> None:
    """PEFT rounds m to the base's dtype but not the norm: its logits start 3e-3 off in bfloat16."""
    model = shape.model(dtype).requires_grad_(False)
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.DoRA(rank=4, **settings), heads=())
    assert torch.equal(logits(model, shape), before)
    assert torch.equal(logits(model.train(), shape), before)
    for _, host, delta in adapter.hosts():
        assert delta.lora_magnitude_vector.dtype == torch.float32
        assert relative_error(delta.lora_magnitude_vector.detach(), dense(host).norm(dim=1)) < 1e-7
    base = {n: p.clone() for n, p in model.named_parameters()}
    adapter.merge()
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters())


def test_a_small_change_of_the_lengths_is_not_rounded_away_in_bfloat16() -> None:
    """A gain of 1.003 is 1 in bfloat16, whose next number is 1.0078; some outputs still move."""
    host = host_of("no bias", torch.bfloat16)
    model, _, delta = one(host, rank=2)
    with torch.no_grad():
        delta.lora_magnitude_vector *= 1.003
    x = torch.randn(4000, 9, dtype=torch.bfloat16)
    ratio = model(x).double() / host.forward(x).double()
    close(ratio.mean(), torch.tensor(1.003, dtype=torch.float64), 3e-4)


@every_host
def test_a_row_of_zeros_stays_finite_and_can_learn(kind: str) -> None:
    """PEFT divides zero by zero."""
    host = host_of(kind)
    with torch.no_grad():
        (host.weight.T if kind == "transposed" else host.weight)[2] = 0
    model, adapter, delta = one(host, rank=3)
    x = torch.randn(4, 9)
    y = model(x)
    assert torch.equal(y, host.forward(x))
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adapter.parameters())
    if kind != "no bias":
        assert delta.lora_B.grad[2].abs().max() > 0
    adapter.merge()
    assert weights.read(host)["weight"].isfinite().all()


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


# Hosts


@pytest.mark.parametrize("host", [nn.Embedding(9, 6), nn.Conv2d(3, 4, 2), nn.LayerNorm(4)])
def test_a_host_that_is_not_linear_is_refused(host: nn.Module) -> None:
    with pytest.raises(TargetError, match=rf"matches only {type(host).__name__}, which this method cannot adapt"):
        one(host, rank=2)


def test_conv1d_computes_the_same_as_the_linear_layer_with_its_transpose() -> None:
    host, linear = Conv1D(5, 7), nn.Linear(7, 5)
    nn.init.normal_(host.weight)
    linear.weight.data, linear.bias.data = host.weight.data.T.clone(), host.bias.data.clone()
    models = []
    for each in (host, linear):
        model, adapter, _ = one(each, rank=2)
        disturb(adapter)
        models.append((model, adapter))
    models[1][1].load_state_dict(models[0][1].state_dict())
    x = torch.randn(2, 3, 7)
    y = models[1][0](x)
    close(models[0][0](x), y, 1e-5)
    for _, adapter in models:
        adapter.merge()
    close(host.weight.T, linear.weight, 1e-6)
    close(models[0][0](x), y, 1e-5)


def test_it_has_lora_s_settings(shape: Shape) -> None:
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.DoRA(rank=4, rank_stabilized=True, learning_rate_ratio=4))
    assert {d.scale for d in adapter.deltas.values() if isinstance(d, decomposed.Decomposed)} == {32 / math.sqrt(4)}
    first, second = adapter.method.parameter_groups(adapter, 1e-3)
    assert second["lr"] == 4 * first["lr"]
    magnitudes = {id(d.lora_magnitude_vector) for d in adapter.deltas.values() if isinstance(d, decomposed.Decomposed)}
    assert magnitudes <= {id(p) for p in first["params"]}
