"""DoRA against the paper's formula, written out by hand with dense matrices in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.errors import TargetError
from inlay.methods.reparameterized import decomposed
from inlay.models import weights

from ..shapes import Shape, disturb, logits
from .dora_hosts import changed, dense, every_host, host_of, one, relative_error
from .test_lora import close, double

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
