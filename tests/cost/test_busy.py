"""Other programs on the processor, of which the times told beforehand know nothing."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import inlay
from inlay.cost import busy
from inlay.cost.busy import processor_share, told_of_share
from inlay.training import active_run


def _clock(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let the process get this share of each thread's time."""
    passed = iter(range(10_000))

    def perf_counter() -> float:
        return next(passed) * 0.01

    def process_time() -> float:
        return share * (next(passed) * 0.01) * busy.torch.get_num_threads()

    monkeypatch.setattr(busy, "time", SimpleNamespace(perf_counter=perf_counter, process_time=process_time))


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "_SECONDS", 0.2)
    monkeypatch.setattr(busy, "_FREE", 0.8)


@pytest.mark.parametrize(("share", "told"), [(1.0, 1.0), (0.9, 1.0), (0.5, 0.5), (0.25, 0.25)])
def test_the_time_that_threads_get_is_compared_with_that_which_passes(
    share: float, told: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _clock(monkeypatch, share)
    assert processor_share() == pytest.approx(told, rel=0.1)


def test_a_real_look_is_short_and_is_a_share() -> None:
    began = time.process_time()
    assert 0 < processor_share() <= 1.0
    assert time.process_time() - began < 5  # of the processor, whoever else is there


def test_only_what_is_worth_it_is_said() -> None:
    assert told_of_share(1.0) is None
    assert told_of_share(0.5) == (
        "other programs, or a limit, leave this process 50.0 % of its processor time now: the times told are rough"
    )


def test_a_run_says_so_beside_its_plan(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_run, "processor_share", lambda: 0.5)
    events: list[dict[str, Any]] = []
    rows = [{"text": f"{word} {number}", "label": word} for number in range(8) for word in ("good", "bad")]
    settings: dict[str, Any] = {"epochs": 1, "forgetting": False}
    inlay.train(tiny_bert, {"train": rows, "valid": rows}, out=tmp_path / "run", progress=events.append, **settings)
    after_plan = events[[event["event"] for event in events].index("plan") + 1]
    assert after_plan["text"] == told_of_share(0.5)
