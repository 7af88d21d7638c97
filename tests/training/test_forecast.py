"""What a run takes is told before it is loaded, and settings are chosen so that it fits."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import inlay
from inlay.cost.machine import Machine
from inlay.cost.record import all_recorded
from inlay.cost.run_cost import CannotBeFollowed
from inlay.cost.speed import Speed
from inlay.errors import DoesNotFit, SettingsError
from inlay.training import active_run, run_state
from inlay.training import forecast as forecast_module

KNOWN: dict[str, Any] = {"epochs": 1, "forgetting": False, "progress": False, "dtype": "float32", "samples": 0}


@pytest.fixture
def tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process take its tensors and nothing else, so that a limit of kilobytes means something."""
    monkeypatch.setattr(Machine, "taken", lambda self, cost: cost.tensor_bytes)


def test_a_run_that_would_not_fit_is_made_to_with_the_same_adapter(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None
) -> None:
    whole = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "whole", **KNOWN)
    says = json.loads((whole.folder / "summary.json").read_text())
    most = round(0.7 * sum(says["plan"]["tensors"].values()))
    small = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "small", memory=f"{most / 1000:.3f}kB", **KNOWN)
    resolved = yaml.safe_load((small.folder / "resolved.yaml").read_text())
    assert resolved["micro_batch_size"] < 16 or resolved["recompute"] != "none"
    assert "# so that the run fits: otherwise it takes about" in (small.folder / "resolved.yaml").read_text()
    assert "so that the run fits" in (small.folder / "log.txt").read_text()
    took = json.loads((small.folder / "summary.json").read_text())
    assert sum(took["tensors"].values()) <= most
    assert "the run came to" in (small.folder / "log.txt").read_text()  # the process took more
    assert "the run came to" not in (whole.folder / "log.txt").read_text()
    one, other = (load_file(run.folder / "adapter" / "adapter_model.safetensors") for run in (whole, small))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=0)


def test_what_cannot_fit_ends_before_anything_is_loaded(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"takes about .*may take 9\.77 KiB.*: no setting helps, as the process"):
        inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", memory="10kB", **KNOWN)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_the_process_with_the_least_memory_counts(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_another(value: Any) -> list[Any]:
        return [value, -(10**12)] if isinstance(value, int) and value > 2**20 else [value]

    monkeypatch.setattr(active_run.processes, "gathered", and_another)
    with pytest.raises(DoesNotFit, match="takes about"):
        inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", **KNOWN)


def test_settings_that_were_given_are_kept(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None
) -> None:
    with pytest.raises(DoesNotFit, match="with 1 row at once and recompute all, as recompute is given, it still takes"):
        inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", memory="10kB", recompute="all", **KNOWN)


def test_a_model_that_cannot_be_followed_trains_all_the_same(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CannotBeFollowed("it looks at values")

    monkeypatch.setattr(forecast_module, "run_cost", fails)
    run = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", **KNOWN)
    says = json.loads((run.folder / "summary.json").read_text())
    assert says["plan"]["tensors"] is None
    assert says["plan"]["memory_bytes"] > 10**7
    assert "it looks at values" in (run.folder / "log.txt").read_text()


def test_a_run_that_goes_on_keeps_what_was_chosen_for_it(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "whole", **KNOWN)
    most = 0.7 * sum(json.loads((whole.folder / "summary.json").read_text())["plan"]["tensors"].values())
    known = KNOWN | {"memory": f"{most / 1000:.3f}kB"}
    small = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "small", **known)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", **known | {"progress": stop})
    run = inlay.resume(tmp_path / "run", progress=False)
    files = [each.folder / "adapter" / "adapter_model.safetensors" for each in (small, run)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_that_is_past_its_limit_says_so_before_the_first_step(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None
) -> None:
    run = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", memory="100MB", **KNOWN)
    events = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    first = next(i for i, event in enumerate(events) if event["event"] == "step")
    notes = [i for i, event in enumerate(events) if "before its first step, more than" in event.get("text", "")]
    assert len(notes) == 1
    assert notes[0] < first
    plan = next(event for event in events if event["event"] == "plan")
    assert plan["memory_bytes"] > 10**8  # what the process has come to already, not only what was said


def test_only_the_first_run_of_a_process_is_put_on_the_record(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, tensors_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run_state, "_RUNS", itertools.count())
    for name in ("one", "two"):  # the second's process takes less beside what it takes already
        inlay.train(tiny_bert, reviews_folder, out=tmp_path / name, memory="100MB", **KNOWN)
    assert len(all_recorded()) == 1


def test_what_did_not_fit_begins_anew_with_other_settings_in_its_folder(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    known = KNOWN | {"out": tmp_path / "run"}
    with pytest.raises(DoesNotFit):
        inlay.train(tiny_bert, reviews_folder, memory="10kB", **known)
    with pytest.raises(SettingsError, match="--go-on begins the unfinished run in it anew, as it has no checkpoint"):
        inlay.train(tiny_bert, reviews_folder, **known)
    run = inlay.train(tiny_bert, reviews_folder, go_on=True, **known)
    assert run.summary["status"] == "finished"
    with pytest.raises(SettingsError, match="other settings"):
        inlay.train(tiny_bert, reviews_folder, go_on=True, memory="10GB", **known)


def test_what_measuring_the_machine_takes_is_not_on_record(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Machine.measured

    def takes_much(machine: Machine) -> Speed:
        torch.ones(10**8)
        return measured(machine)

    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run_state, "_RUNS", itertools.count())
    monkeypatch.setattr(Machine, "measured", takes_much)
    run = inlay.train(tiny_bert, reviews_folder, out=tmp_path / "run", **KNOWN)
    (taken,) = all_recorded()
    assert taken.process == json.loads((run.folder / "summary.json").read_text())["peak_memory_bytes"]
