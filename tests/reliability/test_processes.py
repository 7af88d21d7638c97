"""One process trains; several of them, which would train an adapter each, are told so before any weights are loaded."""

from pathlib import Path

import pytest

from inlay.cli import main
from inlay.errors import SettingsError
from inlay.training.processes import check_one_process


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("verb", ["train", "train --go-on", "compare --methods lora dora"])
def test_several_processes_are_refused(
    verb: str,
    name: str,
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr("inlay.tasks.task.Task.load", lambda *_: pytest.fail("weights are loaded"))
    assert main([*verb.split(), "--out", str(tmp_path / "out"), "--", tiny_bert, reviews_folder]) == 2
    assert f"the environment variable {name} is 2: of so many processes each would train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["1", "", "0", "two"])
def test_one_process_trains(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    check_one_process()
    monkeypatch.setenv("PMI_SIZE", "12")
    with pytest.raises(SettingsError, match="PMI_SIZE is 12"):
        check_one_process()
