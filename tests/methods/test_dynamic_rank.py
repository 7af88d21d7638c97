"""Dynamic rank (DoRA of Mao et al.) against the formulas of the authors' code, written out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay import DynamicRank
from inlay.errors import SettingsError

from ..shapes import disturb


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def one(host: nn.Module, **settings: Any) -> tuple[nn.Module, inlay.Adapter, Any]:
    """A model of one host, its adapter and the delta, in float64 to compare formulas rather than rounding."""
    model = nn.Sequential(host).double()
    adapter = inlay.attach(model, DynamicRank(targets=("0",), **settings))
    for p in adapter.parameters():
        p.data = p.data.double()
    return model, adapter, adapter.deltas["0"]


@pytest.mark.parametrize("conv1d", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "rank", "alpha"), [(7, 5, 3, 12.0), (4, 9, 1, 3.0), (6, 6, 8, 5.0)])
def test_a_linear_layer_computes_x_times_w_plus_the_sum_of_its_components(
    inputs: int, outputs: int, rank: int, alpha: float, conv1d: bool
) -> None:
    host = Conv1D(outputs, inputs) if conv1d else nn.Linear(inputs, outputs)
    model, adapter, delta = one(host, initial_rank=rank, target_rank=1, alpha=alpha, dispersion=0.5)
    x_BTI = torch.randn(2, 3, inputs, dtype=torch.float64, requires_grad=True)
    y_BTO = torch.randn(2, 3, outputs, dtype=torch.float64)
    for disturbed in (False, True):
        if disturbed:
            disturb(adapter)
        output = model(x_BTI)
        penalty = adapter.method.penalty(adapter)
        assert penalty is not None
        wanted = (x_BTI, delta.lora_B, delta.coefficient, delta.lora_A)
        gradients = torch.autograd.grad((output * y_BTO).sum() + penalty, wanted)

        b, c, a = (p.detach().clone().requires_grad_() for p in wanted[1:])
        weight = host.weight.T if conv1d else host.weight
        for i in range(rank):
            weight = weight + alpha / rank * c[i] * torch.outer(b[:, i], a[i])
        expected = x_BTI @ weight.T + host.bias
        vectors = [*a, *b.T]
        plain = 0.5 * sum(((v - v.mean()) ** 2).sum() / (len(v) - 1) for v in vectors) / (2 * rank)
        close(output, expected)
        close(penalty, plain)
        for ours, theirs in zip(
            gradients, torch.autograd.grad((expected * y_BTO).sum() + plain, (x_BTI, b, c, a)), strict=True
        ):
            close(ours, theirs)
        assert gradients[2].abs().min() > 0


def test_the_start_is_uniform_by_the_inputs_of_each_factor_and_the_coefficients_are_zero() -> None:
    torch.manual_seed(0)
    _, _, delta = one(nn.Linear(400, 300), initial_rank=50)
    assert not delta.coefficient.any()
    for p, inputs in ((delta.lora_A, 400), (delta.lora_B, 50)):
        bound = math.sqrt(6 / inputs)
        assert 0.99 * bound < p.abs().max() <= bound * 1.0000001
        close(p.std(), torch.tensor(bound / math.sqrt(3)).double(), 2e-3)


# Importance


@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(7, 5, 3), (12, 30, 9), (3, 2, 6), (5, 5, 1)])
def test_a_share_is_the_norm_of_a_component_by_the_norm_of_the_sum(inputs: int, outputs: int, rank: int) -> None:
    _, adapter, delta = one(nn.Linear(inputs, outputs), initial_rank=rank, target_rank=1, beta=0.0)
    disturb(adapter, 1.0)
    parts = [delta.coefficient[i] * torch.outer(delta.lora_B[:, i], delta.lora_A[i]) for i in range(rank)]
    expected = torch.stack([p.norm() for p in parts]) / (sum(parts).norm() + 1e-8)  # type: ignore[union-attr]
    with torch.no_grad():
        shares = adapter.method.score(delta)  # type: ignore[attr-defined]
        close(shares, expected)
        assert shares.sum() >= 1 - 1e-6
        scaled = delta.lora_A.data.clone()
        delta.lora_A.data[0], delta.lora_B.data[:, 0] = 8 * scaled[0], delta.lora_B.data[:, 0] / 8
        close(adapter.method.score(delta), expected)  # type: ignore[attr-defined]


def test_shares_of_nothing_are_zero_and_of_what_cancels_out_are_finite() -> None:
    _, adapter, delta = one(nn.Linear(4, 4), initial_rank=2, target_rank=1, beta=0.0)
    with torch.no_grad():
        assert adapter.method.score(delta).tolist() == [0, 0]  # type: ignore[attr-defined]
        delta.lora_A[1], delta.lora_B[:, 1] = delta.lora_A[0], delta.lora_B[:, 0]
        delta.coefficient[:] = torch.tensor([[1.0], [-1.0]])
        assert adapter.method.score(delta).isfinite().all()  # type: ignore[attr-defined]


def test_the_average_of_a_share_that_stays_is_the_share_times_one_minus_beta_to_the_steps() -> None:
    _, adapter, delta = one(nn.Linear(4, 4), initial_rank=1, target_rank=1)
    disturb(adapter)
    with torch.no_grad():
        for step in range(1, 8):
            close(adapter.method.score(delta), torch.tensor([1 - 0.9**step]).double(), 1e-6)  # type: ignore[attr-defined]


def test_the_components_with_the_largest_shares_are_kept() -> None:
    _, adapter, delta = one(nn.Linear(6, 6), initial_rank=4, target_rank=2, interval=1)
    delta.coefficient.data[:] = torch.tensor([[0.1], [-0.5], [0.2], [0.3]])
    for p in (delta.lora_A, delta.lora_B):
        p.data = torch.eye(6, dtype=torch.float64)[: len(p), : p.shape[1]]
    for step in range(1, 11):
        adapter.method.after_step(adapter, step, 10)
    assert delta.kept[:, 0].tolist() == [False, True, False, True]
    assert delta.coefficient[:, 0].tolist() == pytest.approx([0, -0.5, 0, 0.3])


# The penalty


def test_the_penalty_is_there_until_the_last_component_is_dropped() -> None:
    model, adapter, delta = one(nn.Linear(6, 6), initial_rank=4, target_rank=2)
    start, end = DynamicRank().phases(20)
    assert (start, end) == (3, 10)
    for step in range(1, 21):
        penalty = adapter.method.penalty(adapter)
        assert (penalty is not None) == (step <= end)
        adapter.method.after_step(adapter, step, 20)
    assert DynamicRank(dispersion=0).penalty(adapter) is None


def test_a_vector_of_one_entry_has_no_variance() -> None:
    _, adapter, delta = one(nn.Linear(1, 6), initial_rank=4, target_rank=2, dispersion=1.0)
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    close(penalty, delta.lora_B.var(0).sum() / 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 1.0}, "method.beta is 1.0; it must be at least 0 and below 1"),
        ({"dispersion": -0.1}, "method.dispersion is -0.1; it must be at least 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DynamicRank(**settings)
