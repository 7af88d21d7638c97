"""AdaLoRA against the paper's formulas, written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay import AdaLoRA
from inlay.errors import SettingsError

from ..shapes import disturb


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def one(host: nn.Module, **settings: Any) -> tuple[nn.Module, inlay.Adapter, Any]:
    """A model of one host, its adapter and the delta, in float64 to compare formulas rather than rounding."""
    model = nn.Sequential(host).double()
    adapter = inlay.attach(model, AdaLoRA(targets=("0",), **settings))
    for p in adapter.parameters():
        p.data = p.data.double()
    return model, adapter, adapter.deltas["0"]


def parts(delta: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(p.detach().clone().requires_grad_() for p in (delta.lora_B, delta.coefficient, delta.lora_A))  # type: ignore[return-value]


@pytest.mark.parametrize("conv1d", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "rank", "alpha"), [(7, 5, 3, 12.0), (4, 9, 1, 3.0), (6, 6, 8, 5.0)])
def test_a_linear_layer_computes_x_times_w_plus_p_e_q(
    inputs: int, outputs: int, rank: int, alpha: float, conv1d: bool
) -> None:
    host = Conv1D(outputs, inputs) if conv1d else nn.Linear(inputs, outputs)
    model, adapter, delta = one(host, initial_rank=rank, target_rank=1, alpha=alpha, orthogonality=0.3)
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

        p, e, q = parts(delta)
        weight = host.weight.T if conv1d else host.weight
        expected = x_BTI @ (weight + alpha / (rank + 1e-5) * p @ torch.diag(e[:, 0]) @ q).T + host.bias
        eye = torch.eye(rank, dtype=torch.float64)
        plain = 0.3 * ((p.T @ p - eye).square().sum().sqrt() + (q @ q.T - eye).square().sum().sqrt()) / 2
        close(output, expected)
        close(penalty, plain)
        for ours, theirs in zip(
            gradients, torch.autograd.grad((expected * y_BTO).sum() + plain, (x_BTI, p, e, q)), strict=True
        ):
            close(ours, theirs)
        assert gradients[2].abs().min() > 0


def test_e_starts_as_zero_and_p_and_q_with_a_deviation_of_a_fiftieth() -> None:
    torch.manual_seed(0)
    _, _, delta = one(nn.Linear(400, 300), initial_rank=50)
    assert not delta.coefficient.any()
    for p in (delta.lora_A, delta.lora_B):
        close(p.std(), torch.tensor(0.02).double(), 5e-4)
        close(p.mean(), torch.tensor(0.0).double(), 5e-4)


def test_the_scale_stays_that_of_the_initial_rank_when_components_go() -> None:
    _, _, delta = one(nn.Linear(6, 6), initial_rank=8, target_rank=2, alpha=4)
    disturb_scale = 4 / (8 + 1e-5)
    delta.coefficient.data.fill_(1.0)
    delta.kept[2:] = False
    close(delta.strength(), disturb_scale * torch.tensor([[1.0]] * 2 + [[0.0]] * 6).double())


# The penalty


def test_orthonormal_factors_have_no_penalty_and_no_gradient_of_it() -> None:
    _, adapter, delta = one(nn.Linear(9, 8), initial_rank=4, target_rank=2)
    delta.lora_A.data = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64)).Q.T
    delta.lora_B.data = torch.linalg.qr(torch.randn(8, 4, dtype=torch.float64)).Q
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    close(penalty, torch.zeros((), dtype=torch.float64), 1e-14)
    delta.lora_A.data = torch.eye(9, dtype=torch.float64)[:4]  # exactly zero, where a root has no derivative
    delta.lora_B.data = torch.eye(8, dtype=torch.float64)[:, :4]
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    penalty.backward()
    assert not delta.lora_A.grad.any()
    assert not delta.lora_B.grad.any()


def test_the_penalty_is_a_mean_over_layers_of_what_is_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    adapter = inlay.attach(model, AdaLoRA(initial_rank=3, target_rank=1, orthogonality=2.0))
    disturb(adapter, 1.0)
    expected = []
    for delta, kept in zip(adapter.deltas.values(), ([0, 2], [1]), strict=True):
        delta.kept[:] = False
        delta.kept[kept] = True
        q, p = delta.lora_A[kept], delta.lora_B[:, kept]
        expected += [(g - torch.eye(len(kept))).norm() for g in (q @ q.T, p.T @ p)]
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    close(penalty, 2 * sum(expected) / 4, 1e-5)
    assert AdaLoRA(orthogonality=0).penalty(adapter) is None


# Importance


def test_a_score_is_smoothed_sensitivity_times_its_smoothed_uncertainty() -> None:
    generator = torch.Generator().manual_seed(3)
    _, adapter, delta = one(nn.Linear(5, 4), initial_rank=3, target_rank=2, beta1=0.7, beta2=0.6)
    disturb(adapter)
    named = {"P": delta.lora_B, "E": delta.coefficient, "Q": delta.lora_A}
    sensitivity = {n: torch.zeros_like(p) for n, p in named.items()}
    uncertainty = {n: torch.zeros_like(p) for n, p in named.items()}
    for _ in range(5):
        for n, p in named.items():
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            now = (p.detach() * p.grad).abs()
            sensitivity[n] = 0.7 * sensitivity[n] + 0.3 * now
            uncertainty[n] = 0.6 * uncertainty[n] + 0.4 * (now - sensitivity[n]).abs()
        with torch.no_grad():
            score = adapter.method.score(delta)  # type: ignore[attr-defined]
        s = {n: sensitivity[n] * uncertainty[n] for n in named}
        for i in range(3):
            close(score[i], s["E"][i, 0] + s["P"][:, i].sum() / 4 + s["Q"][i].sum() / 5)


def test_the_component_that_the_loss_depends_on_is_kept() -> None:
    model, adapter, delta = one(nn.Linear(6, 6), initial_rank=4, target_rank=1, interval=1)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
    delta.coefficient.data[:] = torch.tensor([[0.5], [0.5], [0.5], [0.5]])
    delta.lora_A.data[2] *= 50
    x = torch.randn(16, 6, dtype=torch.float64)
    for step in range(1, 21):
        model(x).square().mean().backward()
        optimizer.step()
        adapter.method.after_step(adapter, step, 20)
        optimizer.zero_grad()
    assert delta.kept[:, 0].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta1": 1.0}, "method.beta1 is 1.0; it must be at least 0 and below 1"),
        ({"beta2": -0.1}, "method.beta2 is -0.1"),
        ({"orthogonality": -1.0}, "method.orthogonality is -1.0; it must be at least 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AdaLoRA(**settings)
