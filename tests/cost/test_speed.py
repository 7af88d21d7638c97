"""The speed of a machine: fitted to operations that were timed, measured once, and told of any work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from inlay.attached.adapter import attach
from inlay.bases.base import find_base
from inlay.batches.batch import divided
from inlay.cost import calibration
from inlay.cost.run_cost import Way, run_cost
from inlay.cost.speed import Rate, Speed, fitted
from inlay.cost.step import follow_step
from inlay.cost.trace import Trace
from inlay.cost.work import VIEWS, Amount, Work
from inlay.methods import METHODS
from inlay.tasks.unread import unread_task
from inlay.under_way import shown_by


def test_rates_are_found_again_and_told_of_other_sizes() -> None:
    rate = Rate(2e-5, 1e-11, 3e-10)
    amounts = [Amount(1, n * 1e6, moved) for n in (1, 40, 300) for moved in (1e3, 1e6, 4e7)]
    passes = [Amount(1, 0, moved) for moved in (1e3, 1e6, 4e7)]
    speed = fitted(
        {
            "product": [(amount, rate.seconds(amount)) for amount in amounts],
            "pass": [(amount, rate.seconds(amount)) for amount in passes],
        }
    )
    for kind, amount in {"product": Amount(3, 5e9, 1e7), "pass": Amount(7, 0, 5e8)}.items():
        assert speed.seconds(Work({kind: amount})) == pytest.approx(rate.seconds(amount), rel=0.02)
        assert speed.slower(2).seconds(Work({kind: amount})) == pytest.approx(2 * rate.seconds(amount), rel=0.02)


def test_a_kind_that_was_seen_in_small_ones_alone_is_as_fast_as_others_in_large_ones() -> None:
    usual = [(Amount(1, 0, moved), 1e-5 + moved * 1e-10) for moved in (1e3, 1e6, 1e8)]
    small = [(Amount(1, 0, moved), seconds) for moved, seconds in ((160, 8e-6), (1_600, 30e-6), (160, 9e-6))]
    speed = fitted({"usual": usual, "small": small})
    large = Work({"small": Amount(1, 0, 1e8)})
    assert speed.seconds(large) == pytest.approx(1e-2, rel=0.2)
    assert speed.seconds(Work({"never seen": Amount(1, 0, 1e8)})) == pytest.approx(1e-2, rel=0.2)


def test_what_calls_an_operation_and_gives_its_memory_back_counts_for_each() -> None:
    speed = Speed({VIEWS: Rate(1.0)}, Rate(), Rate(2.0), beside=Rate(0.5, made=0.1))
    assert speed.seconds(Work({VIEWS: Amount(4), "pass": Amount(2, made=10)})) == pytest.approx(4 + 4 + 3 + 1)


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_HOME", str(tmp_path))
    measured = list[calibration.SmallStep]()
    own = calibration._stepper

    def stepper(trial: calibration.SmallStep, *more: Any) -> Any:
        measured.append(trial)
        return own(trial, *more)

    monkeypatch.setattr(calibration, "_stepper", stepper)
    device = torch.device("cpu")
    told = list[tuple[str, int, int]]()
    for _ in range(2):
        calibration.measured_speed.cache_clear()
        with shown_by(lambda *part: told.append(part)):
            found = calibration.measured_speed(device, torch.float32)
        assert len(measured) == len(calibration.STEPS)
        count = len(calibration.STEPS)
        assert told == [("measuring this machine, once", done, count) for done in range(count + 1)]
        assert found.rates["aten.mm float32"].seconds(Amount(1, 1e9, 1e7, 1e6)) > 1e-4
    (tmp_path / "speed.json").write_text("{")
    calibration.measured_speed.cache_clear()
    calibration.measured_speed(device, torch.float32)
    assert len(measured) == 2 * len(calibration.STEPS)
    assert len(json.loads((tmp_path / "speed.json").read_text())) == 1
    calibration.measured_speed.cache_clear()


def test_attention_multiplies_as_many_numbers_on_every_device() -> None:
    q, k, v = (torch.ones(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    with Trace() as trace:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    forward = 2 * (2 * 2 * 3 * 16 * 16 * 8)
    assert trace.work.products == forward + 5 * forward / 2  # the backward pass has the scores again, and four more


def test_work_is_the_same_with_values_and_without_and_clipping_is_the_same_for_any_tokens(tiny_llama: str) -> None:
    task = unread_task(find_base(tiny_llama), 8, 16)
    way = Way(method=METHODS["lora"](), dtype=torch.float32, batch_size=4)
    told = run_cost(task, way).step
    model: Any = task.auto_class.from_config(task.config, dtype=torch.float32)
    parts = divided(task.training_batch(range(4)), None)
    adapter = attach(model, way.method)
    follow_step(adapter, task, parts, 1, 1.0)
    taken = follow_step(adapter, task, parts, 1, 1.0)
    assert told.work.products == taken.work.products
    assert told.work.amounts["aten.mm float32"] == taken.work.amounts["aten.mm float32"]
    optimizer = "aten._fused_adamw_ float32"
    assert told.work_of(0.5).amounts[optimizer] == told.work.amounts[optimizer]
    half, whole = (work.amounts["aten.mm float32"] for work in (told.work_of(0.5), told.work))
    assert (half.operations, half.products) == (whole.operations, whole.products / 2)
