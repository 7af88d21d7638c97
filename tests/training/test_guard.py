"""A training that collapses goes back to its best step with a lower rate, exactly so after an interruption too."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import inlay
from inlay.errors import TrainingFailed
from inlay.methods.peak_rate import peak_rate
from inlay.tasks.classify import Classify
from inlay.training import loop
from inlay.training.active_run import ActiveRun
from inlay.training.checkpoint import CHECKPOINT
from inlay.training.guard import MOST_RETURNS, Guard, Scored
from inlay.training.run import resume, train
from inlay.training.schedule import Plan, learning_rate_share
from inlay.training.settings import RunSettings

from .resume.runs import check, interrupted, short

TOO_HIGH = 30 * 0.003


def after(*losses: float) -> Guard:
    guard = Guard()
    for loss in losses:
        guard = guard.after(loss)
    return guard


def test_a_loss_far_above_the_first_one_is_an_explosion() -> None:
    assert after(0.7, *[1.5] * 10).exploded() is None
    assert after(0.7, *[1.6] * 10).exploded() == "the loss was 0.70 at the first step and 1.60 over the last 10"
    assert after(0.7, *[9.0] * 8).exploded() is None  # too few to tell
    assert after(5.0, *[7.9] * 10).exploded() is None


def test_an_evaluation_shows_a_collapse_by_one_answer_or_by_a_loss_that_has_risen_everywhere() -> None:
    trained, risen = after(5.0, *[2.0] * 10), after(5.0, *[5.6] * 10)
    assert trained.collapsed(Scored({"loss": 5.7}, 5.0)) is None  # overfitted: only valid has risen
    assert risen.collapsed(Scored({"loss": 5.1}, 5.0)) is None
    assert risen.collapsed(Scored({"loss": 5.7}, 5.0)) == "the loss on valid is 5.70, and was 5.00 before the training"
    assert trained.collapsed(Scored({"loss": 0.4}, 0.7, True)) == "every row of valid gets the same answer"


def test_the_labels_shares_alone_are_nothing_learned() -> None:
    scores = {"loss": 1.71}
    assert Scored(scores, base_loss=1.79).has_learned
    assert not Scored(scores, base_loss=1.79, naive_loss=1.64).has_learned
    assert Scored({"loss": 1.6}, base_loss=1.79, naive_loss=1.64).has_learned


def test_half_the_rate_is_left_or_a_quarter_if_nothing_was_learned() -> None:
    guard = Guard().gone_back(9, 0, "", by_chance=False).gone_back(30, 20, "", by_chance=False)
    assert (guard.share, guard.since, guard.losses) == (1 / 8, 30, ())
    plan = Plan(1, 100, 100, 1e-3, 5, frozenset({100}))
    rates = [learning_rate_share(step, plan, guard) for step in range(30, 40)]
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)  # it rises anew, and then falls as before
    assert rates[9] == pytest.approx(learning_rate_share(39, plan) / 8)


def test_from_the_start_a_rate_far_above_the_methods_own_goes_back_to_that() -> None:
    far = Guard().gone_back(6, 0, "", by_chance=False, own=1 / 20)
    assert far.share == pytest.approx(1 / 20)
    assert far.gone_back(12, 0, "", by_chance=False, own=1 / 20).share == pytest.approx(1 / 80)
    assert Guard().gone_back(6, 0, "", by_chance=False, own=1 / 200).share == 1 / 20  # the rule may not fit the model
    assert Guard().gone_back(6, 0, "", by_chance=False, own=2.0).share == 1 / 4  # a low rate that collapsed
    assert Guard().gone_back(6, 4, "", by_chance=False, own=1 / 20).share == 1 / 2  # something was learned with it


def test_a_loss_that_hardly_fell_asks_for_a_higher_rate() -> None:
    assert after(0.7, *[0.68] * 10).hardly_fell
    assert not after(0.7, *[0.6] * 10).hardly_fell
    assert not after(0.7, *[0.69] * 5).hardly_fell  # too few to tell


@pytest.fixture
def asked(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> RunSettings[Any]:
    return short(
        tiny_bert, reviews_folder, tmp_path / "run", epochs=12, patience=0, forgetting=False, learning_rate=0.003
    )


def told_back(run: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "back"]


@pytest.mark.parametrize("name", ["lora", "full", "dora"])
def test_a_rate_that_is_far_too_high_is_lowered_until_it_learns(name: str, asked: RunSettings[Any]) -> None:
    good = train(asked)
    far = replace(asked, method=inlay.METHODS[name](), learning_rate=TOO_HIGH, out=f"{asked.out}-far")
    guarded = train(far)
    left = train(replace(far, guard=False, out=f"{asked.out}-left"))
    accuracy = [summary["metrics"]["tuned"]["accuracy"] for summary in (good, guarded, left)]
    assert guarded["went_back"]
    assert not left["went_back"]
    assert accuracy[1] >= accuracy[0] - 0.02
    assert accuracy[2] < accuracy[1] - 0.1
    back = told_back(Path(far.out or ""))
    assert [event["step"] for event in back] == [each["step"] for each in guarded["went_back"]]
    own = peak_rate(far.method, writes=False, width=32, steps=guarded["planned_steps"]).value
    assert back[0]["learning_rate"] == pytest.approx(min(TOO_HIGH / 4, max(own, TOO_HIGH / 20)))
    page = Path(far.out or "", "report.html").read_text()
    assert "The training collapsed" in page
    assert "collapsed, went back" in page
    assert "The training collapsed" not in Path(asked.out or "", "report.html").read_text()


@pytest.mark.parametrize("at", [{"event": "back"}, {"event": "step", "step": 20}, {"event": "evaluate", "step": 16}])
@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_a_training_that_went_back_goes_on_exactly(
    name: str, at: dict[str, Any], asked: RunSettings[Any], tmp_path: Path
) -> None:
    far = replace(asked, method=inlay.METHODS[name](dropout=0.2), learning_rate=TOO_HIGH, epochs=5)
    check(far, tmp_path, **at)
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["went_back"]


def test_a_loss_that_is_not_finite_is_gone_back_from(asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = Classify.loss, []

    def once(task: Classify, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return loss(task, model, batch)
        calls.append(1)
        return loss(task, model, batch) * (math.nan if len(calls) == 20 else 1.0)

    monkeypatch.setattr(Classify, "loss", once)
    summary = train(asked)
    assert [(each["step"], "loss is nan" in each["why"]) for each in summary["went_back"]] == [(18, True)]
    assert summary["metrics"]["tuned"]["accuracy"] > 0.9


def test_a_training_does_not_go_back_for_ever(asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = Classify.loss, []

    def always(task: Classify, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return loss(task, model, batch) * (math.nan if len(calls) > 6 else 1.0)

    monkeypatch.setattr(Classify, "loss", always)
    with pytest.raises(TrainingFailed, match="loss is nan"):
        train(asked)
    assert len(told_back(Path(asked.out or ""))) == MOST_RETURNS


def test_what_a_method_has_settled_is_not_undone(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    """AdaLoRA drops components for good; a step before that is nothing to go back to."""
    budget = inlay.AdaLoRA(target_rank=2, initial_rank=4, interval=1, initial_phase=0.1, final_phase=0.5)
    asked = short(tiny_bert, reviews_folder, tmp_path / "run", method=budget, epochs=8, learning_rate=10.0, patience=0)
    summary = train(asked)
    settled = budget.phases(summary["steps"])[1]
    assert summary["went_back"]
    assert all(each["step"] < settled or each["to"] >= settled for each in summary["went_back"])
    assert set(summary["decided"]["ranks"].values()) <= {0, 1, 2, 3, 4}
    assert sum(summary["decided"]["ranks"].values()) == 2 * len(summary["decided"]["ranks"])


def test_a_step_is_not_gone_back_to_that_the_training_exploded_at(
    asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However good its score is: a checkpoint after that could not be read."""
    monkeypatch.setattr(Classify, "is_better", lambda *_: True)
    monkeypatch.setattr(Guard, "exploded", lambda guard: "the loss rose" if len(guard.losses) == 10 else None)
    summary = train(asked)
    assert all(each["to"] < each["step"] for each in summary["went_back"])
    assert summary["went_back"]
    events = map(json.loads, (Path(asked.out or "") / "metrics.jsonl").read_text().splitlines())
    evaluated = {event["step"]: event["best"] for event in events if event["event"] == "evaluate"}
    returned = {each["step"] for each in summary["went_back"]}
    assert not any(best for step, best in evaluated.items() if step in returned)


def test_a_signal_before_it_goes_back_does_not_lose_that(
    asked: RunSettings[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = replace(asked, learning_rate=20 * TOO_HIGH, epochs=5)
    whole = train(replace(far, out=str(tmp_path / "whole")))
    went_back, calls = loop._went_back, []

    def interrupted(*arguments: Any, **options: Any) -> bool:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return went_back(*arguments, **options)

    monkeypatch.setattr(loop, "_went_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(replace(far, out=str(tmp_path / "run")))
    resumed = resume(tmp_path / "run")
    assert resumed["went_back"] == whole["went_back"]
    assert resumed["metrics"] == whole["metrics"]


@contextmanager
def learned_at_step_8_alone() -> Iterator[None]:
    """Let no other step be safe, and the training collapse after every tenth."""
    evaluate = ActiveRun.evaluate

    def at_8(run: ActiveRun, step: int) -> Scored:
        return replace(evaluate(run, step), base_loss=math.inf if step == 8 else -math.inf, naive_loss=math.inf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActiveRun, "evaluate", at_8)
        patch.setattr(Guard, "exploded", lambda guard: "the loss rose" if len(guard.losses) == 10 else None)
        yield


@pytest.mark.parametrize("step", [9, 12])  # before it was at step 8, and after
def test_a_step_that_does_not_last_is_given_up_for_the_start(
    step: int, asked: RunSettings[Any], tmp_path: Path
) -> None:
    with learned_at_step_8_alone():
        check(replace(asked, epochs=4, method=inlay.LoRA(dropout=0.2)), tmp_path, event="step", step=step)
    returns = json.loads((tmp_path / "whole" / "summary.json").read_text())["went_back"]
    assert [(each["step"], each["to"], each["share"]) for each in returns] == [
        (10, 8, 0.5),
        (20, 0, 0.25),
        (30, 0, 0.25),
    ]


def test_a_safe_step_is_kept_where_the_start_could_not_come_so_far_again(asked: RunSettings[Any]) -> None:
    with learned_at_step_8_alone():
        assert [each["to"] for each in train(replace(asked, epochs=3))["went_back"]] == [8, 8]


def test_a_checkpoint_without_the_start_goes_on_as_it_did(asked: RunSettings[Any], tmp_path: Path) -> None:
    """Resume from what a version before this one wrote."""
    with learned_at_step_8_alone():
        path = interrupted(replace(asked, epochs=4), tmp_path / "run", event="step", step=9) / CHECKPOINT
        with safe_open(path, framework="pt") as file:
            texts = {name: text for name, text in file.metadata().items() if name != "digest"}
        told = json.loads(texts["progress"])
        del told["start"]
        texts["progress"] = json.dumps(told)
        tensors = load_file(path)
        before = {name: tensor for name, tensor in tensors.items() if not name.startswith("start")}
        assert len(before) < len(tensors)
        save_file(before, path, metadata=texts)
        assert [each["to"] for each in resume(tmp_path / "run")["went_back"]] == [8, 8, 8]


def test_a_return_is_told_once_though_the_run_was_killed_in_it(asked: RunSettings[Any], tmp_path: Path) -> None:
    far = replace(asked, learning_rate=TOO_HIGH, epochs=5, checkpoint_minutes=1e-9)
    whole = train(replace(far, out=str(tmp_path / "whole")))

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "back":
            raise SystemExit

    with pytest.raises(SystemExit):
        train(replace(far, out=str(tmp_path / "run")), kill)
    resume(tmp_path / "run")
    assert [event["step"] for event in told_back(tmp_path / "run")] == [each["step"] for each in whole["went_back"]]
