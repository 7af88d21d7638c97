"""What AdaLoRA and dynamic rank share: a budget of components that shrinks over a run and is met exactly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay import AdaLoRA, DynamicRank
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.formats.peft import read_tensors
from inlay.methods.reparameterized.components import components
from inlay.methods.reparameterized.rank_budget import RankBudget, fast_first, slow_first
from inlay.models import weights
from inlay.training import active_run as run_module
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..shapes import Shape, disturb, logits

both = pytest.mark.parametrize("kind", [AdaLoRA, DynamicRank], ids=["adalora", "dynamic-rank"])
SMALL: dict[str, Any] = {"target_rank": 2, "initial_rank": 4, "interval": 2}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


class Training:
    """A few steps of AdamW as a run makes them."""

    def __init__(self, method: RankBudget, total_steps: int, model: nn.Module | None = None):
        torch.manual_seed(1)
        self.model = small_model() if model is None else model
        self.adapter = inlay.attach(self.model, method) if model is None else inlay.adapters(model)["default"]
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=0.05)
        self.total_steps, self.done = total_steps, 0
        generator = torch.Generator().manual_seed(2)
        self.x, self.y = (torch.randn(8, n, generator=generator) for n in (5, 3))

    def step(self) -> None:
        self.done += 1
        (self.model(self.x) - self.y).square().mean().backward()
        if (penalty := self.adapter.method.penalty(self.adapter)) is not None:
            penalty.backward()
        self.optimizer.step()
        self.adapter.method.after_step(self.adapter, self.done, self.total_steps)
        self.optimizer.zero_grad()

    def counts(self) -> list[int]:
        """Components that have a part in the function, by layer."""
        return [int(delta.strength().count_nonzero()) for _, delta in components(self.adapter)]

    def kept(self) -> list[list[bool]]:
        return [delta.kept[:, 0].tolist() for _, delta in components(self.adapter)]


# The budget


@pytest.mark.parametrize(("step", "budget"), [(10, 48), (11, 47), (20, 42), (40, 34), (60, 32), (80, 32)])
def test_adalora_s_budget_falls_fast_first(step: int, budget: int) -> None:
    start, end = AdaLoRA(initial_phase=0.1, final_phase=0.2).phases(100)
    assert (start, end) == (10, 80)
    assert fast_first((step - start) / (end - start), 48, 32) == budget


@pytest.mark.parametrize(("step", "gone"), [(150, 0), (200, 0), (250, 6), (325, 36), (450, 181), (500, 288)])
def test_dynamic_rank_s_budget_falls_slow_first(step: int, gone: int) -> None:
    start, end = DynamicRank(initial_phase=0.15, final_phase=0.5).phases(1000)
    assert (start, end) == (150, 500)
    assert slow_first((step - start) / (end - start), 864, 576) == 864 - gone


def test_a_budget_starts_and_ends_where_it_should_and_never_grows() -> None:
    for schedule in (fast_first, slow_first):
        for initial, target in ((864, 576), (7, 7), (100, 1), (3, 2)):
            budgets = [schedule(i / 97, initial, target) for i in range(98)]
            assert (budgets[0], budgets[-1]) == (initial, target)
            assert budgets == sorted(budgets, reverse=True)


def test_the_phases_fit_into_a_run_of_any_length() -> None:
    for first, last in ((0.15, 0.5), (0.0, 0.0), (0.5, 0.49), (0.0, 0.999), (0.99, 0.0), (0.3, 0.7 - 1e-9)):
        method = AdaLoRA(initial_phase=first, final_phase=last)
        for steps in range(1, 400):
            start, end = method.phases(steps)
            assert 0 <= start < end <= steps
            settled = [method.may_be_best(step, steps) for step in range(1, steps + 1)]
            assert settled == [step >= end for step in range(1, steps + 1)]


@both
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 23, 40])
def test_a_run_ends_with_exactly_its_budget(kind: Any, steps: int) -> None:
    training = Training(kind(**SMALL), steps)
    for _ in range(steps):
        training.step()
    assert sum(map(sum, training.kept())) == 3 * 2
    decided = training.adapter.method.findings(training.adapter)
    assert decided == {"ranks": dict(zip(("0", "2", "4"), map(sum, training.kept()), strict=True))}


@both
def test_the_components_left_after_each_reduction_are_the_budget(kind: Any) -> None:
    training = Training(kind(**SMALL | {"initial_phase": 0.2, "final_phase": 0.3, "interval": 3}), 40)
    for step in range(1, 41):
        training.step()
        start, end = 8, 28
        if step <= start:
            assert sum(training.counts()) == 12
        elif (step < end and (step - start) % 3 == 0) or step >= end:
            progress = min(1.0, (step - start) / (end - start))
            assert sum(training.counts()) == kind.schedule(progress, 12, 6)
    assert kind.schedule(0.5, 12, 6) == {AdaLoRA: 6, DynamicRank: 12}[kind]


@both
def test_equal_scores_do_not_change_how_many_are_left(kind: Any) -> None:
    training = Training(kind(**SMALL), 10)
    for p in training.adapter.parameters():
        p.data = torch.ones_like(p)
        p.grad = torch.ones_like(p)
    for step in range(1, 11):
        training.adapter.method.after_step(training.adapter, step, 10)
    assert sum(training.counts()) == 6


@both
def test_the_components_with_the_highest_scores_of_all_layers_stay(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(kind(**SMALL), 10)
    scores = iter(torch.tensor([[1.0, 9, 8, 2], [7, 6, 5, 0], [4, 3, 2, 1]]))
    monkeypatch.setattr(kind, "score", lambda self, delta: next(scores))
    for _, delta in components(training.adapter):
        delta.coefficient.data.fill_(1)
    training.adapter.method.after_step(training.adapter, 5, 10)  # the last step of the second phase
    assert training.kept() == [[False, True, True, False], [True, True, True, False], [True, False, False, False]]
    assert training.counts() == [2, 3, 1]


# What is gone


@both
def test_what_is_gone_stays_gone_whatever_the_optimizer_s_momentum_does(kind: Any) -> None:
    training = Training(kind(**SMALL), 30)
    for _ in range(15):
        training.step()
    gone = [(delta, ~delta.kept) for _, delta in components(training.adapter)]
    before = training.model(training.x)
    moved = False
    for _ in range(15):
        training.step()
        for delta, mask in gone:
            assert torch.equal(~delta.kept, mask)
            assert not delta.strength()[mask].any()
            assert delta.strength()[~mask].all()
            assert not delta.matrices()[0][mask[:, 0]].any()
            moved |= bool(delta.coefficient[mask].any())
    assert moved  # the momentum is there, and has no effect
    assert not torch.allclose(training.model(training.x), before, atol=1e-3)


@both
def test_until_then_a_dropped_component_may_grow_again(kind: Any) -> None:
    training = Training(kind(**SMALL | {"interval": 5, "initial_phase": 0.0, "final_phase": 0.1}), 40)
    for _ in range(30):
        training.step()
    left = sum(training.counts())
    assert left < 12
    training.step()
    assert sum(training.counts()) > left
    assert all(delta.kept.all() for _, delta in components(training.adapter))


@both
def test_a_pruned_adapter_still_folds_into_what_it_computes(kind: Any) -> None:
    training = Training(kind(**SMALL), 10)
    for _ in range(10):
        training.step()
    for p in (*training.adapter.parameters(), *training.model.parameters()):
        p.data = p.data.double()
    x = training.x.double()
    expected = training.model(x)
    plain = x
    for layer in training.model:
        if not isinstance(layer, nn.Linear):
            plain = torch.tanh(plain)
            continue
        delta: Any = layer.adapters["default"]
        weight = layer.weight.clone()
        for i in range(4):
            if delta.kept[i]:
                scale = delta.component_scale * delta.coefficient[i]
                weight = weight + scale * torch.outer(delta.lora_B[:, i], delta.lora_A[i])
        torch.testing.assert_close(delta.fold(weights.read(layer))["weight"], weight, atol=1e-12, rtol=1e-12)
        plain = plain @ weight.T + layer.bias
    torch.testing.assert_close(expected, plain, atol=1e-12, rtol=1e-12)


# State


@both
def test_a_copy_goes_on_as_the_original_does_and_apart_from_it(kind: Any) -> None:
    first = Training(kind(**SMALL | {"interval": 1}), 20)
    for _ in range(6):
        first.step()
    second = Training(first.adapter.method, 20, copy.deepcopy(first.model))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.done = first.done
    for _ in range(14):
        first.step()
    assert sum(second.counts()) != sum(first.counts())
    for _ in range(14):
        second.step()
    assert first.kept() == second.kept()
    assert torch.equal(first.model(first.x), second.model(second.x))


@both
def test_one_method_serves_two_runs(kind: Any) -> None:
    method = kind(**SMALL)
    first, second, alone = (Training(m, 12) for m in (method, method, kind(**SMALL)))
    for _ in range(12):
        first.step()
        second.step()
    for _ in range(12):
        alone.step()
    assert first.kept() == second.kept() == alone.kept()
    assert torch.equal(first.model(first.x), alone.model(alone.x))


@both
def test_the_state_holds_what_is_kept_and_nothing_of_the_scores(kind: Any) -> None:
    training = Training(kind(**SMALL), 10)
    for _ in range(4):
        training.step()
    names = {name.partition(".")[2] for name in training.adapter.state_dict()}
    assert names == {"lora_A", "lora_B", "coefficient", "kept"}
    for _ in range(6):
        training.step()
    again = Training(kind(**SMALL), 10)
    again.adapter.load_state_dict(training.adapter.state_dict())
    assert again.kept() == training.kept()
    assert torch.equal(again.model(again.x), training.model(training.x))
    for _ in range(10):
        again.step()
    assert sum(map(sum, again.kept())) == 6


# A run


@both
@pytest.mark.parametrize("epochs", [0.2, 3])
def test_a_whole_run_ends_with_exactly_its_budget(
    kind: Any, epochs: float, tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[inlay.Adapter] = []
    fit = run_module.fit
    monkeypatch.setattr(
        run_module, "fit", lambda training, *a: (trained.append(training.adapter), fit(training, *a))[1]
    )
    settings = RunSettings(
        model=tiny_bert,
        data=DataSettings(path=reviews_folder),
        method=kind(**SMALL),
        out=str(tmp_path / "run"),
        epochs=epochs,
        learning_rate=1e-2,
        dtype="float32",
        patience=0,
    )
    summary = train(settings)
    assert summary["status"] == "finished"
    ranks = trained[0].method.findings(trained[0])["ranks"]
    assert sum(ranks.values()) == 2 * len(ranks) == 2 * 13
    tensors = read_tensors(tmp_path / "run" / "adapter")
    assert sum(len(t) for key, t in tensors.items() if "lora_A" in key) == 2 * 13
    assert epochs < 1 or len(set(ranks.values())) > 1


# Settings


@both
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_rank": 0}, "method.target_rank is 0; it must be at least 1"),
        ({"initial_rank": 15}, r"method.initial_rank is 15; it must be at least 16 \(method.target_rank\)"),
        ({"interval": 0}, "method.interval is 0; it must be at least 1"),
        ({"dropout": 1.0}, "method.dropout is 1.0"),
        ({"initial_phase": -0.1}, "method.initial_phase is -0.1"),
        ({"final_phase": -0.1}, "method.final_phase is -0.1; it must be at least 0 and below 1"),
        ({"initial_phase": 0.5}, "method.initial_phase is 0.5, method.final_phase 0.5; .* together below 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**settings)


@both
def test_the_counts_are_those_of_the_initial_rank(kind: Any, shape: Shape) -> None:
    adapter = inlay.attach(shape.model(), kind(initial_rank=5, target_rank=3), heads=())
    expected = sum(5 * (sum(weights.size(host)) + 1) for _, host, _ in adapter.hosts())
    assert sum(p.numel() for p in adapter.parameters()) == expected


@both
def test_at_the_first_step_only_the_coefficients_have_a_gradient(kind: Any, shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    adapter = inlay.attach(model, kind(initial_rank=4, target_rank=2), heads=())
    assert torch.equal(logits(model, shape), before)
    logits(model, shape).square().mean().backward()
    for name, p in adapter.named_parameters():
        assert p.grad is not None
        assert bool(p.grad.any()) == name.endswith("coefficient") or "k" in name.split(".")[-2], name
    disturb(adapter)
    assert not torch.allclose(logits(model, shape), before, atol=1e-3)


def test_a_component_counts_for_its_share_of_a_bfloat16_layer_too() -> None:
    for kind in (AdaLoRA, DynamicRank):
        outputs: list[Tensor] = []
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            model = small_model().to(dtype)
            torch.manual_seed(1)
            disturb(inlay.attach(model, kind(**SMALL)))
            outputs.append(model(torch.ones(2, 5, dtype=dtype)).float())
            assert all(p.dtype == torch.float32 for p in inlay.adapters(model)["default"].parameters())
        torch.testing.assert_close(outputs[0], outputs[1], atol=0.03, rtol=0.03)
