"""The processes that `inlay train --processes N` starts on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inlay.cli import main
from inlay.cli.several import _surroundings
from inlay.cli.train import parse_settings
from inlay.errors import SettingsError
from inlay.launch import STARTED_BY

START = "import sys; from inlay.cli.several import run_in_several; sys.exit(run_in_several(2, ['methods', 'lora']))"


def test_they_leave_no_folder_and_take_no_module_from_where_they_are_called(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    (here / "torch.py").write_text("raise SystemExit('this is no torch')")
    env = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-P", "-c", START], cwd=here, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: inlay train MODEL DATA --method lora") <= 1
    assert done.stdout.startswith("lora")
    assert not [*temporary.iterdir()]


def test_what_one_that_is_killed_has_in_the_temporary_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path))
    dies = "import os, signal, tempfile; tempfile.mkdtemp(); os.kill(os.getpid(), signal.SIGKILL)"
    with _surroundings(2):
        assert subprocess.run([sys.executable, "-c", dies]).returncode == -signal.SIGKILL
        assert len([*tmp_path.rglob("*")]) == 2
    assert not [*tmp_path.iterdir()]


def test_more_of_them_than_rows_of_a_step_are_refused_before_any_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SettingsError, match="batch_size is 4, fewer rows than the 5 processes that share a step"):
        parse_settings(["model", "rows.csv", "--batch-size", "4", "--processes", "5"])
    assert main(["train", "model", "rows.csv", "--processes", "5000"]) == 2
    assert "batch_size is 16, fewer rows than the 5000 processes" in " ".join(capsys.readouterr().err.split())


def test_their_surroundings_are_gone_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with _surroundings(2):
        assert os.environ[STARTED_BY] == str(os.getpid())
        assert int(os.environ["OMP_NUM_THREADS"]) >= 1
        assert Path(os.environ["TMPDIR"]).is_dir()
    assert dict(os.environ) == before
