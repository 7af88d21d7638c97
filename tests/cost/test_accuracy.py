"""How far plans were off, by the record as it stood before each run."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from inlay.cli import main
from inlay.cost.accuracy import accuracy
from inlay.cost.record import record

from .test_record import RUN


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))


def test_nothing_is_said_without_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy() is None
    assert main(["doctor", "--json"]) == 0
    assert "plans" not in json.loads(capsys.readouterr().out)


def test_each_run_is_compared_with_what_the_record_said_then(capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (0.2, 0.2, 0.1):  # the first is twice what was said, the second as corrected by it, the third half
        record(replace(RUN, step_seconds=seconds))
    record(replace(RUN, device="cuda", tensors=550_000_000, step_seconds=0.1))  # with no record of its kind
    found = accuracy()
    assert found is not None
    assert found.runs == 4
    assert found.time is not None
    assert (found.time.median, found.time.worst) == pytest.approx((0.25, 1.0))
    assert found.tensors is not None
    assert (found.tensors.median, found.tensors.worst) == pytest.approx((0.0, 0.1))
    assert found.process is not None
    assert found.process.median == pytest.approx(0.0)
    assert found.process.worst != 0
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"] == asdict(found)
    assert main(["doctor"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "plans, by 4 runs on record time of a step off by 25.0 % (median); at worst 100 % more than told" in shown
