"""An interrupted run goes on to exactly the result that it would have had."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.errors import CheckpointError
from inlay.methods import METHODS
from inlay.tasks.classify import Classify
from inlay.training import run as run_module
from inlay.training import run_output
from inlay.training.checkpoint import CHECKPOINT, Checkpoint
from inlay.training.run import resume, train

from ...shapes import SHAPES, method
from .runs import DROPOUT, StopAt, assert_same, check, interrupted, short, steps, told, train_whole

# Methods whose deltas have a training state of their own, and three that stand for those without one.
STATEFUL = {"adalora", "dora", "dynamic-rank", "multitask-prompt", "sparse"}
QUICK = STATEFUL | {"full", "lora", "prompt"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS])
def test_every_method_goes_on_exactly(name: str, dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, name)
    if "dropout" in {f for f in type(asked.method).__dataclass_fields__}:
        asked = replace(asked, method=replace(asked.method, dropout=DROPOUT))
    check(asked, tmp_path, event="step", step=5)


def test_a_run_that_leaves_out_faulty_rows_goes_on_exactly_and_only_without_them(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_reviews, data)
    train_rows = data / "train.jsonl"
    first, *others = train_rows.read_text().splitlines(keepends=True)
    train_rows.write_text("".join([first, '{"text": "broken\n', *others]))
    asked = short(dropping_bert, str(data), tmp_path)
    asked = replace(asked, data=replace(asked.data, skip_faulty=0.1))
    check(asked, tmp_path, event="step", step=5)
    run = interrupted(asked, tmp_path / "mended", event="step", step=5)
    train_rows.write_text("".join([first, '{"text": "mended", "label": "positive"}\n', *others]))
    with pytest.raises(CheckpointError, match="has other rows"):
        resume(run)


BUDGETS: dict[str, Any] = {"target_rank": 2, "initial_rank": 4, "interval": 1, "initial_phase": 0.1, "final_phase": 0.3}


@pytest.mark.parametrize(
    ("built", "step"),
    [
        *((budget(**BUDGETS), step) for budget in (inlay.AdaLoRA, inlay.DynamicRank) for step in (2, 5, 7)),
        (inlay.LoRA(rank=4, initialization="pissa"), 5),
        (inlay.LoRA(rank=4, initialization="eva"), 5),
        (inlay.LoRA(rank=4, learning_rate_ratio=16.0, dropout=DROPOUT), 5),
        (inlay.PrefixTuning(tokens=4, projection=True), 5),
    ],
    ids=lambda value: value if isinstance(value, int) else f"{value.name}-{getattr(value, 'initialization', '')}",
)
def test_a_method_goes_on_from_what_it_remembers(
    built: Any, step: int, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    check(short(dropping_bert, few_reviews, tmp_path, method=built), tmp_path, event="step", step=step)


def test_a_classifier_that_retains_goes_on_with_the_passages_that_it_would_have_had(
    dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, retain_weight=1.0, micro_batch_size=8)
    check(asked, tmp_path, event="step", step=4)


def test_a_language_model_that_retains_does_so_too(tiny_llama: str, completions: str, tmp_path: Path) -> None:
    asked = short(tiny_llama, completions, tmp_path, retain_weight=1.0, samples=0)
    check(asked, tmp_path, event="step", step=2)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 9])
def test_a_run_goes_on_from_any_step(step: int, dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, micro_batch_size=4, batch_size=16, weight_decay=0.1)
    check(asked, tmp_path, event="step", step=step)


@pytest.mark.parametrize("at", [{"step": 3}, {"step": 9}, {"step": 6, "best": True}])
def test_a_run_goes_on_from_its_evaluations(
    at: dict[str, Any], dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path, seed=3)
    train_whole(asked, tmp_path / "whole")
    if at.get("best"):
        assert told(tmp_path / "whole")["best_step"] >= 6
    check(asked, tmp_path, event="evaluate", **at)


def test_a_run_that_is_all_but_finished_goes_on(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the last step, while the parameters are those of the best one."""
    monkeypatch.setattr(Classify, "is_better", lambda _, scores, than: than is None)  # the first evaluation is the best
    asked = short(dropping_bert, few_reviews, tmp_path, epochs=8)
    whole = train(replace(asked, out=str(tmp_path / "whole")))
    assert whole["best_step"] < whole["steps"] == 24
    write = run_output.write_report

    def stop(folder: Path, summary: Any) -> None:
        monkeypatch.setattr(run_output, "write_report", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_output, "write_report", stop)
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(tmp_path / "run")))
    assert told(tmp_path / "run")["status"] == "interrupted"
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_patience_is_counted_over_an_interruption(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    too_low = 1e-12  # to change any score: the first evaluation, at step 3, stays the best
    asked = short(dropping_bert, few_reviews, tmp_path, learning_rate=too_low, patience=3, epochs=10)
    for step in (8, 12):
        check(asked, tmp_path, event="step", step=step)
    assert told(tmp_path / "whole")["steps"] == 12
    run = interrupted(asked, tmp_path / "run", text="stopped after step 12: 3 evaluations without a better one")
    assert f"inlay resume {run}" in told(run)["reason"]
    resume(run)
    assert_same(run, tmp_path / "whole")
    assert (run / "metrics.jsonl").read_text().count("stopped after step 12: 3 eval") == 1


def test_a_checkpoint_without_its_rate_goes_on_at_that_of_its_events(
    dropping_bert: str, few_reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions before did not keep the default rate, which was another."""
    read = run_module.read_checkpoint

    def without_rate(folder: Path) -> Checkpoint:
        found = read(folder)
        settings = found.identity.settings | {"learning_rate": None}
        return replace(found, identity=replace(found.identity, settings=settings))

    asked = short(dropping_bert, few_reviews, tmp_path)
    train_whole(asked, tmp_path / "whole")
    run = interrupted(asked, tmp_path / "run", event="step", step=5)
    monkeypatch.setattr(run_module, "read_checkpoint", without_rate)
    events = (run / "metrics.jsonl").rename(tmp_path / "events")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl no longer says at which learning rate"):
        resume(run)
    events.rename(run / "metrics.jsonl")
    resume(run)
    assert_same(run, tmp_path / "whole")


def test_a_run_may_be_interrupted_again_and_again(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    asked = short(dropping_bert, few_reviews, tmp_path)
    train_whole(asked, tmp_path / "whole")
    run = interrupted(asked, tmp_path / "run", event="step", step=2)
    spent = []
    for step in (3, 5, 6, 8):
        with pytest.raises(KeyboardInterrupt):
            resume(run, StopAt(event="step", step=step))
        summary = json.loads((run / "summary.json").read_text())
        spent.append((summary["wall_seconds"], summary["train_seconds"]))
    for seconds in zip(*spent, strict=True):
        assert list(seconds) == sorted(set(seconds))
    assert told(run)["status"] == "interrupted"
    assert told(run)["steps"] == 8
    resume(run)
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize("samples", [0, 3])
def test_packed_runs_of_a_language_model_go_on_exactly(
    samples: int, tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    built = inlay.LoRA(rank=4, dropout=DROPOUT)
    changes: dict[str, Any] = {"batch_size": 8, "micro_batch_size": 4, "samples": samples}
    asked = short(tiny_llama, completions, tmp_path, method=built, **changes)
    for step in (4, 6):
        check(asked, tmp_path, event="step", step=step)
    assert "several texts share a row" in (tmp_path / "whole" / "log.txt").read_text()


def test_a_run_that_goes_on_tells_that_the_texts_of_the_base_are_written_again(
    tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    asked = short(tiny_llama, completions, tmp_path, samples=3)
    run = interrupted(asked, tmp_path / "run", event="step", step=4)
    events: list[dict[str, Any]] = []
    resume(run, events.append)
    (note,) = (event["text"] for event in events if event["event"] == "note" and "written" in event["text"])
    assert note.startswith(
        "3 texts of valid are written again with the base, as no checkpoint keeps them, and 3 of valid after the "
        "training with the adapter"
    )


@pytest.mark.parametrize("name", ["prompt", "full", "ia3", "adalora"])
def test_other_methods_of_a_language_model_go_on_exactly(
    name: str, tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    built = method(name, SHAPES["llama"])
    asked = short(tiny_llama, completions, tmp_path, method=built, samples=0, batch_size=8)
    check(asked, tmp_path, event="step", step=5)


def test_a_multitask_prompt_goes_on_from_what_its_sources_taught(
    tiny_bert: str, few_reviews: str, reviews_folder: str, tmp_path: Path
) -> None:
    built = inlay.MultitaskPrompt(tokens=4, sources=(few_reviews, reviews_folder))
    asked = short(tiny_bert, few_reviews, tmp_path, method=built)
    whole = tmp_path / "whole"
    train(replace(asked, out=str(whole)))
    stop = StopAt(event="evaluate", step=6, split="valid")
    with pytest.raises(KeyboardInterrupt):  # while its first teacher learns
        train(replace(asked, out=str(tmp_path / "early")), stop)
    assert not list((tmp_path / "early").rglob(CHECKPOINT.name))
    assert "begin anew" in told(tmp_path / "early")["reason"]
    assert not any("inlay resume" in event.get("text", "") for event in stop.events)

    shared: list[str] = []

    def stop_the_target(event: dict[str, Any]) -> None:
        shared.extend([event["text"]] if "with the shared prompt" in event.get("text", "") else [])
        if shared and event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(replace(asked, out=str(run)), stop_the_target)
    moved = tmp_path / "moved"
    run.rename(moved)
    resume(moved)
    assert steps(moved) == steps(whole)
    for part in ("adapter", "sources/adapter"):
        name = f"{part}/adapter_model.safetensors"
        assert (moved / name).read_bytes() == (whole / name).read_bytes()
