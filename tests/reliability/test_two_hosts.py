"""Two hosts train one adapter; the cable between them is cut in mid-run, and put back."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .hosts import two_hosts

_PATIENCE = 15
_LIMIT = 400
_ASKED = (
    "--epochs 20 --evaluations-per-epoch 1 --patience 0 --learning-rate 1e-2 --no-forgetting --device cpu "
    "--dtype float32 --batch-size 10 --micro-batch-size 2"
).split()


def steps_told(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"event": "step"') if path.is_file() else 0


def summary_of(run: Path) -> dict[str, object]:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 3 * _PATIENCE])
def test_a_host_that_is_cut_off_comes_back_and_the_run_goes_on(
    seconds: int, dropping_bert: str, few_reviews: str, tmp_path: Path
) -> None:
    """For less than the processes' patience the run waits; else torchrun starts it anew from its checkpoint."""
    asked = ["train", dropping_bert, few_reviews, *_ASKED, "--out"]
    alone = subprocess.Popen([sys.executable, "-m", "inlay", *asked, str(tmp_path / "whole")])
    disk = tmp_path / "disk"
    disk.mkdir()
    run, logs = disk / "run", [tmp_path / "first.log", tmp_path / "second.log"]
    with two_hosts(disk) as hosts:
        begun = [host.torchrun([*asked, str(run)], log, _PATIENCE) for host, log in zip(hosts, logs, strict=True)]
        until = time.monotonic() + _LIMIT
        while steps_told(run) < 10:
            assert begun[0].poll() is None, logs[0].read_text()
            assert time.monotonic() < until, [log.read_text() for log in logs]
            time.sleep(0.05)
        hosts[1].cut()
        time.sleep(seconds)
        assert steps_told(run) < 100
        hosts[1].mend()
        codes = [process.wait(_LIMIT) for process in begun]
    said = "\n".join(log.read_text() for log in logs)
    assert [*codes, alone.wait(_LIMIT)] == [0, 0, 0], said
    assert summary_of(run)["status"] == "finished"
    assert ("resume  after step" in said) == (seconds > _PATIENCE), said
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run / "adapter" / name).read_bytes() == (tmp_path / "whole" / "adapter" / name).read_bytes()
