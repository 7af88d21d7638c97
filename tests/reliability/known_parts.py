"""What no checkpoint can change of a run that is gone on with, made once: how its rows become tokens, and its base."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from inlay.tasks.classify import Classify
from inlay.training import active_run, shared_base
from inlay.training import run as run_module


def make_once(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep them in `parts`, for runs of the same settings that end before their next step. Others make their own."""
    prepare, load_base, evaluate = run_module.prepare_run, shared_base.load_base, Classify.evaluate

    def prepared(settings: Any, journal: Any, folder: Any, **how: Any) -> Any:
        if settings != parts.setdefault("settings", settings):
            return prepare(settings, journal, folder, **how)
        if "run" not in parts:
            parts["run"] = prepare(settings, journal, folder, **how)
        return replace(parts["run"], folder=folder)

    def loaded(run: Any) -> Any:
        if run.task is not parts["run"].task:
            return load_base(run)
        if "base" not in parts:
            parts["base"] = load_base(run)
        return copy.deepcopy(parts["base"])

    def evaluated(task: Any, model: Any, split: str) -> Any:
        if task is not parts["run"].task:
            return evaluate(task, model, split)
        if "scores" not in parts:
            parts["scores"] = evaluate(task, model, split)
        return parts["scores"]

    monkeypatch.setattr(run_module, "prepare_run", prepared)
    monkeypatch.setattr(shared_base, "load_base", loaded)
    monkeypatch.setattr(Classify, "evaluate", evaluated)
    monkeypatch.setattr(active_run, "reset_peak_memory", lambda _: None)  # which collects garbage
