"""Trials on a Ray cluster; here one of this machine alone."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inlay.compare import cluster
from inlay.compare.comparison import compare
from inlay.compare.settings import Comparison, Contender
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.methods import METHODS

from .fakes import contender


@pytest.fixture(autouse=True)
def no_patience_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers give way to all other processes, which a machine that runs tests has."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


def asked(model: str, data: str, out: Path, **changes: Any) -> Comparison:
    settings = {"dtype": "float32", "epochs": 1, "max_length": 32, "out": str(out), "forgetting": False} | changes
    return Comparison(model=model, data=DataSettings(path=data), **settings)


def test_runs_are_the_same_on_a_cluster(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    contenders = [contender("lora"), contender("bitfit")]
    events: list[dict[str, Any]] = []
    found = compare(
        asked(tiny_bert, reviews_folder, tmp_path / "there", cluster="local", jobs=2), contenders, events.append
    )
    here = compare(asked(tiny_bert, reviews_folder, tmp_path / "here"), contenders)
    assert found.failed == 0
    for name in ("lora-0", "bitfit-0"):
        a, b = (json.loads((each.folder / "runs" / name / "summary.json").read_text()) for each in (found, here))
        assert a["metrics"]["tuned"]["loss"] == pytest.approx(b["metrics"]["tuned"]["loss"], abs=1e-6)
        assert {"step", "finished"} <= {e["event"] for e in events if e.get("trial") == name}


def test_what_fails_there_is_told_here(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    comparison = asked(tiny_bert, reviews_folder, tmp_path, cluster="local")
    off = Contender(label="off", method=METHODS["lora"](alpha=1e30), quantize="none")
    found = compare(comparison, [contender("lora"), off])
    assert [len(row.failures) for row in found.table.rows] == [0, 1]
    assert "learning rate" in found.table.rows[1].failures[0][1]


def test_what_is_interrupted_there_can_go_on(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    comparison = asked(tiny_bert, reviews_folder, tmp_path, cluster="local", epochs=200)

    def interrupting(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(comparison, [contender("lora"), contender("bitfit")], interrupting)
    summary = json.loads((tmp_path / "runs" / "lora-0" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert list((tmp_path / "runs" / "lora-0" / "checkpoints").iterdir())


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
    if cluster.importlib.util.find_spec("ray"):
        with pytest.raises(SettingsError, match=r"--cluster 127.0.0.1:9: no Ray cluster answers there"):
            compare(comparison, [contender("lora"), contender("bitfit")])
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'inlay\[cluster\]'"):
        compare(comparison, [contender("lora"), contender("bitfit")])
    assert not (tmp_path / "out").exists()
