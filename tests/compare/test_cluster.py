"""Trials on a Ray cluster; here one of this machine alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inlay import extras
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.lab.compare import cluster
from inlay.lab.compare.comparison import compare
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.trial import Budget, plain_trials
from inlay.lab.compare.worker import run_trial
from inlay.training.shared_base import NoSharing

from .fakes import contender

SHORT = ["--max-length", "32", "--dtype", "float32", "--no-forgetting", "--cluster", "local", "--json"]


def started(*arguments: str) -> subprocess.Popen[str]:
    """`inlay compare` in a process of its own: Ray changes more of the one that it is in than it puts back."""
    pytest.importorskip("ray")
    niceness = {"RAY_worker_niceness": "0"}  # its workers give way to all others, which a machine that tests has
    epochs = [] if "--epochs" in arguments else ["--epochs", "1"]
    command = [sys.executable, "-m", "inlay", "compare", *arguments, *epochs, *SHORT]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | niceness
    )


def events_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def asked(model: str, data: str, out: Path, **changes: Any) -> CompareSettings:
    settings = {"dtype": "float32", "epochs": 1, "max_length": 32, "out": str(out), "forgetting": False} | changes
    return CompareSettings(model=model, data=DataSettings(path=data), **settings)


def test_runs_are_the_same_on_a_cluster_and_what_fails_there_is_told_here(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    methods = ["--methods", "lora", "lora:alpha=1e30", "--jobs", "2", "--out", str(tmp_path / "there")]
    events = events_of(started(tiny_bert, reviews_folder, *methods))
    here = asked(tiny_bert, reviews_folder, tmp_path / "here")
    (trial,) = plain_trials(here, [contender("lora")], tmp_path / "here", {}, Budget(1, 32))
    run_trial(trial, NoSharing(), lambda _: None, ())
    a, b = (json.loads((tmp_path / way / "runs" / "lora-0" / "summary.json").read_text()) for way in ("there", "here"))
    assert a["metrics"]["tuned"]["loss"] == pytest.approx(b["metrics"]["tuned"]["loss"], abs=1e-6)
    assert {"step", "finished"} <= {e["event"] for e in events if e.get("trial") == "lora-0"}
    ends = {e["label"]: e for e in events if e["event"] == "trial" and e["state"] in ("finished", "failed")}
    assert ends["lora"]["state"] == "finished"
    assert ends["lora:alpha=1e30"]["state"] == "failed"
    assert "learning rate" in ends["lora:alpha=1e30"]["reason"]


def test_what_is_interrupted_there_can_go_on(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    run = tmp_path / "out" / "runs" / "lora-0"
    process = started(
        tiny_bert, reviews_folder, "--methods", "lora", "bitfit", "--out", str(tmp_path / "out"), "--epochs", "400"
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "step":
            process.send_signal(signal.SIGINT)
            break
    process.communicate()
    assert process.returncode == 130
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert list((run / "checkpoints").iterdir())


def test_a_machine_that_does_not_share_the_directory_says_so(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    trial: Any = SimpleNamespace(folder=Path("runs/x/runs/lora-0"))
    reason = cluster.run_there(trial, None, str(tmp_path), ())
    assert reason is not None
    assert f"has no {tmp_path / 'runs/x/runs'}" in reason


@pytest.mark.parametrize(
    ("machines", "jobs", "share"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}], None, (2, {"num_cpus": 4.0})),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 6, (6, {"num_cpus": 2.0})),
        ([{"CPU": 2.0}], 4, (4, {"num_cpus": 1.0})),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}], None, (4, {"num_cpus": 6.0, "num_gpus": 1.0})),
        ([{"CPU": 16.0, "GPU": 2.0}], 4, (4, {"num_cpus": 4.0, "num_gpus": 0.5})),
    ],
)
def test_a_trial_gets_an_accelerator_or_a_machine(machines: list[Any], jobs: int | None, share: Any) -> None:
    assert cluster.divided(machines, jobs, on_accelerators=True) == share


def test_without_ray_or_a_cluster_nothing_is_begun(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = asked(tiny_bert, reviews_folder, tmp_path / "out", cluster="127.0.0.1:9")
    if extras.importlib.util.find_spec("ray"):
        with pytest.raises(SettingsError, match=r"--cluster 127.0.0.1:9: no Ray cluster answers there"):
            compare(comparison, [contender("lora"), contender("bitfit")])
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'inlay\[cluster\]'"):
        compare(comparison, [contender("lora"), contender("bitfit")])
    assert not (tmp_path / "out").exists()
