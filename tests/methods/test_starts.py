"""LoRA's starts against their papers' definitions, and that none of them changes the base."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.models import weights
from inlay.singular import top_singular

from ..shapes import Shape, disturb, logits
from .test_lora import close, one

TAKEN_AWAY = ("pissa", "olora")


def host_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    host = {"linear": nn.Linear(9, 6), "wide": nn.Linear(6, 9, bias=False), "transposed": Conv1D(6, 9)}[kind]
    nn.init.normal_(host.weight)
    return host


def weight_of(host: nn.Module) -> Tensor:
    return weights.read(host)["weight"].detach()


every_host = pytest.mark.parametrize("kind", ["linear", "wide", "transposed"])


# Definitions


@every_host
@pytest.mark.parametrize("alpha", [3.0, 12.0])
def test_pissa_is_the_best_approximation_of_the_weight_at_its_rank(kind: str, alpha: float) -> None:
    host = host_of(kind)
    _, _, delta = one(host, rank=3, alpha=alpha, initialization="pissa")
    u, values, v = torch.linalg.svd(weight_of(host).double(), full_matrices=False)
    best = u[:, :3] @ values[:3].diag() @ v[:3]
    close(delta.scale * (delta.lora_B @ delta.lora_A).double(), best, 1e-5)
    # both factors carry the root of the singular values, divided by the scale
    close((delta.lora_A.double() ** 2).sum(1), values[:3] / delta.scale, 1e-5)
    close((delta.lora_B.double() ** 2).sum(0), values[:3] / delta.scale, 1e-5)


@every_host
def test_olora_takes_the_first_columns_of_q_and_rows_of_r(kind: str) -> None:
    host = host_of(kind)
    _, _, delta = one(host, rank=3, initialization="olora")
    q, r = torch.linalg.qr(weight_of(host).double())
    close(delta.lora_B.double(), q[:, :3], 1e-5)
    close(delta.lora_A.double(), r[:3], 1e-5)
    close(delta.lora_B.T @ delta.lora_B, torch.eye(3), 1e-5)


def test_gaussian_has_the_deviation_one_over_the_rank_and_b_zero() -> None:
    torch.manual_seed(0)
    _, _, delta = one(nn.Linear(500, 30), rank=20, initialization="gaussian")
    close(delta.lora_A.std(), torch.tensor(1 / 20), 1e-3)
    close(delta.lora_A.abs().mean(), torch.tensor(math.sqrt(2 / math.pi) / 20), 1e-3)
    assert not delta.lora_B.any()


def test_orthogonal_factors_are_not_zero_but_their_product_is() -> None:
    torch.manual_seed(0)
    _, _, delta = one(nn.Linear(300, 200), rank=8, initialization="orthogonal")
    close(delta.lora_B @ delta.lora_A, torch.zeros(200, 300), 1e-6)
    close(delta.lora_A.std(), torch.tensor(0.1 / math.sqrt(2)), 5e-3)
    close(delta.lora_B.std(), torch.tensor(0.1 / math.sqrt(2)), 5e-3)
    assert torch.linalg.matrix_rank(delta.lora_A) == torch.linalg.matrix_rank(delta.lora_B) == 4


def spectrum(values: Tensor, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator)).Q
    return left * values @ right.T


@pytest.mark.parametrize("kind", ["power", "flat"])
def test_a_large_weight_is_decomposed_nearly_as_well_as_by_the_whole_decomposition(kind: str) -> None:
    index = torch.arange(1.0, 301.0)
    values = index**-0.5 if kind == "power" else 1 - index / 900
    matrix = spectrum(values, 400, 300)
    state = torch.get_rng_state()
    u, found, v = top_singular(matrix, 8)
    again = top_singular(matrix, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip((u, found, v), again, strict=True))
    assert u.shape == (400, 8)
    assert v.shape == (8, 300)
    close(u.T @ u, torch.eye(8), 1e-5)
    close(v @ v.T, torch.eye(8), 1e-5)
    close(found, values[:8], 1e-2 if kind == "flat" else 1e-3)
    # what counts is how much of the weight is caught: no rank 8 can catch more than the first 8 values
    assert (u * found @ v).square().sum() > 0.995 * values[:8].square().sum()
    residual = (matrix - u * found @ v).square().sum()
    assert residual < 1.001 * values[8:].square().sum()


def test_the_size_decides_which_way_a_weight_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    whole = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda m, **k: (calls.append(tuple(m.shape)), whole(m, **k))[1])
    top_singular(torch.randn(300, 300), 4)
    assert calls == [(16, 16)]
    top_singular(torch.randn(300, 300), 150)
    top_singular(torch.randn(100, 300), 4)
    assert calls[1:] == [(300, 300), (100, 300)]


# The base is left alone


@pytest.mark.parametrize("initialization", TAKEN_AWAY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_start_is_exactly_the_base_in_every_dtype(initialization: Any, dtype: torch.dtype, shape: Shape) -> None:
    """Others put W - s B0 A0 into the base, rounded: with PEFT's pissa in bfloat16 the logits start 2e-3 off."""
    model = shape.model(dtype).requires_grad_(False)
    base, before = {n: p.clone() for n, p in model.named_parameters()}, logits(model, shape)
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization=initialization, dropout=0.1), heads=())
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in base.items())
    assert torch.equal(logits(model, shape), before)
    assert torch.equal(logits(model.train(), shape), before)  # whatever is dropped
    assert all(delta.lora_A.abs().max() > 0 < delta.lora_B.abs().max() for delta in adapter.deltas.values())
    adapter.merge()
    assert all(torch.equal(after[n], p) for n, p in base.items())


@pytest.mark.parametrize("initialization", TAKEN_AWAY)
@every_host
def test_output_and_gradients_are_those_of_the_residual_and_the_factors(initialization: Any, kind: str) -> None:
    """The published form: x (W - s B0 A0)' + s (x A') B', with its gradients."""
    host = host_of(kind).double()
    model, adapter, delta = one(host, rank=3, alpha=5, initialization=initialization)
    delta.double()
    a0, b0 = delta.lora_A.detach().clone(), delta.lora_B.detach().clone()
    disturb(adapter)
    x = torch.randn(2, 4, weight_of(host).shape[1], dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 4, weight_of(host).shape[0], dtype=torch.float64)
    y = model(x)
    own = torch.autograd.grad((y * target).sum(), (x, delta.lora_A, delta.lora_B))

    a, b = (p.detach().clone().requires_grad_() for p in (delta.lora_A, delta.lora_B))
    residual = weight_of(host) - 5 / 3 * b0 @ a0
    expected = F.linear(x, residual, getattr(host, "bias", None)) + 5 / 3 * x @ a.T @ b.T
    close(y, expected)
    for mine, theirs in zip(own, torch.autograd.grad((expected * target).sum(), (x, a, b)), strict=True):
        close(mine, theirs)
        assert mine.abs().max() > 1e-3
    adapter.merge()
    close(model(x), y)


@pytest.mark.parametrize("initialization", TAKEN_AWAY)
def test_a_small_change_is_not_lost_in_bfloat16(initialization: Any) -> None:
    """Rounded to bfloat16, a start of size 1 hides a change of 1e-3; the differences are taken before the rounding."""
    torch.manual_seed(0)
    host = nn.Linear(64, 64, bias=False)
    model, adapter, delta = one(host.bfloat16(), rank=4, initialization=initialization)
    disturb(adapter, 1e-4)
    x = torch.randn(100, 64, dtype=torch.bfloat16)
    a_RI, b_OR = (p.double() for p in (delta.lora_A, delta.lora_B))
    change = x.double() @ (delta.scale * (b_OR @ a_RI - delta.start_B.double() @ delta.start_A.double())).T
    zero = torch.zeros(100, 64, dtype=torch.bfloat16)
    found = delta.edit_output(host, x, zero).double()
    assert (found - change).norm() < 0.01 * change.norm()

    down = torch.cat([delta.lora_A, delta.start_A]).bfloat16()  # the same product, written as it usually is
    up = torch.cat([delta.lora_B, -delta.start_B], dim=1).bfloat16()
    usual = (delta.scale * F.linear(F.linear(x, down), up)).double()
    assert (usual - change).norm() > 0.3 * change.norm()


@pytest.mark.parametrize("initialization", TAKEN_AWAY)
def test_it_costs_what_twice_the_rank_costs(initialization: Any) -> None:
    def products(settings: dict[str, Any]) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []

        class Watch(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func in (F.linear, torch.addmm, torch.matmul, torch.Tensor.matmul):
                    shapes.append(tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))[:3])
                return func(*args, **(kwargs or {}))

        model, _, _ = one(nn.Linear(10, 12), alpha=4, **settings)
        with Watch():
            model(torch.randn(5, 10))
        return shapes

    assert products({"rank": 3, "initialization": initialization}) == products({"rank": 6})


@pytest.mark.parametrize("initialization", TAKEN_AWAY)
def test_the_frozen_start_is_part_of_the_state_and_not_of_what_is_trained(initialization: Any) -> None:
    host = host_of("linear")
    model, adapter, delta = one(host, rank=3, initialization=initialization)
    assert [n for n, _ in adapter.named_parameters()] == ["0.lora_A", "0.lora_B"]
    assert sum(p.numel() for p in adapter.parameters()) == 3 * (9 + 6)
    assert list(adapter.state_dict()) == ["0.lora_A", "0.lora_B", "0.start_A", "0.start_B"]
    disturb(adapter)
    x = torch.randn(4, 9)
    y = model(x)
    twin, other, _ = one(host_of("linear"), rank=3, initialization=initialization)
    other.deltas["0"].start_A.zero_()
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(twin(x), y)
    assert delta.start_A.dtype == torch.float32
    assert not delta.start_A.requires_grad


@pytest.mark.parametrize("initialization", ["gaussian", "orthogonal", "pissa", "olora", "eva"])
def test_each_start_can_be_placed_on_a_model_without_values(initialization: Any, shape: Shape) -> None:
    with torch.device("meta"):
        model = shape.model_class(shape.config)
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization=initialization))
    assert all(p.is_meta for p in adapter.parameters())


def test_both_factors_have_gradients_at_the_first_step_unless_b_is_zero() -> None:
    for initialization, first in [("kaiming", False), ("gaussian", False), ("orthogonal", True), ("pissa", True)]:
        model, _, delta = one(nn.Linear(8, 8), rank=4, initialization=initialization)
        model(torch.randn(5, 8)).square().sum().backward()
        assert bool(delta.lora_A.grad.abs().max() > 1e-4) == first, initialization
        assert delta.lora_B.grad.abs().max() > 1e-4


def test_a_base_in_half_precision_is_decomposed_in_float32() -> None:
    host = host_of("linear").bfloat16()
    _, _, delta = one(host, rank=6, alpha=6, initialization="pissa")
    assert delta.lora_A.dtype == torch.float32
    close(delta.lora_B @ delta.lora_A, host.weight.float(), 1e-5)


def test_compiled_and_checkpointed_it_computes_the_same(shape: Shape) -> None:
    torch.compiler.reset()
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization="pissa"))
    disturb(adapter)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        close(logits(compiled, shape, use_cache=False), logits(model, shape, use_cache=False), 1e-5)
    logits(model.train(), shape, use_cache=False).square().mean().backward()
    gradients = [p.grad for p in adapter.parameters()]
    for p in adapter.parameters():
        p.grad = None
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    logits(model, shape, use_cache=False).square().mean().backward()
    for a, p in zip(gradients, adapter.parameters(), strict=True):
        close(a, p.grad, 1e-5)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"initialization": "magic"},
            "method.initialization is 'magic'; known: eva, gaussian, kaiming",
        ),
        ({"initialization": "orthogonal", "rank": 5}, "method.rank is 5; the orthogonal initialization needs an even"),
        ({"initialization": "orthogonal", "rank_pattern": {"q": 3}}, "method.rank is 3; the orthogonal"),
        ({"eva_rank_ratio": 0.5}, "method.eva_rank_ratio is 0.5; it must be at least 1"),
        ({"initialization": "pissa", "alpha": -1.0}, "method.alpha is -1.0; pissa needs it above 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.LoRA(**settings)


@pytest.mark.parametrize("initialization", ["pissa", "olora", "eva"])
def test_a_rank_above_the_size_of_the_weight_is_refused(initialization: Any) -> None:
    with pytest.raises(
        TargetError, match=rf"method.rank is 7, and {initialization} cannot .* 6 x 9 weight of 0; lower"
    ):
        one(host_of("linear"), rank=7, initialization=initialization)


@pytest.mark.parametrize("host", [nn.Embedding(9, 6), nn.Conv2d(3, 4, 2)])
def test_a_host_that_is_not_linear_is_refused(host: nn.Module) -> None:
    with pytest.raises(TargetError, match=f"is pissa, which only linear layers can have; 0 is a {type(host).__name__}"):
        one(host, rank=2, initialization="pissa")
