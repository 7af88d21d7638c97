"""Processes that were started together and cannot train together are told so before any weights are loaded."""

from pathlib import Path

import pytest

from inlay import launch
from inlay.cli import main
from inlay.errors import SettingsError


@pytest.mark.parametrize(
    ("verb", "name", "said"),
    [
        ("train", "WORLD_SIZE", "WORLD_SIZE is 2, but RANK and MASTER_ADDR and MASTER_PORT are not set"),
        ("train --go-on", "WORLD_SIZE", "WORLD_SIZE is 2, but RANK"),
        (
            "train",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_SIZE is 2: each of so many processes would train an adapter",
        ),
        ("train", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS is 2: each of so many processes would train"),
        ("train --processes 3", "WORLD_SIZE", "--processes is 3, and 2 processes were started already"),
        ("compare --methods lora dora", "WORLD_SIZE", "WORLD_SIZE is 2, and only train and resume run in several"),
        ("eval", "PMI_SIZE", "PMI_SIZE is 2, and only train and resume run in several processes"),
    ],
)
def test_processes_that_cannot_train_together_are_refused(
    verb: str,
    name: str,
    said: str,
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr("inlay.tasks.task.Task.load", lambda *_: pytest.fail("weights are loaded"))
    assert main([*verb.split(), "--out", str(tmp_path / "out"), "--", tiny_bert, reviews_folder]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_what_waits_for_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(SettingsError, match="which Inlay does not; start with torchrun"):
        launch.check_launcher()


@pytest.mark.parametrize("value", ["1", "", "0", "two"])
def test_a_process_alone_trains(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    launch.check_launcher()
    launch.check_alone()
    assert launch.own_number() == 0


def test_all_but_the_first_process_are_silent(
    tiny_bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, said in (("0", "unknown setting --nothing"), ("1", "")):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", number)
        assert main(["train", tiny_bert, "rows.csv", "--nothing", "1"]) == 2
        assert said in " ".join((found := capsys.readouterr()).err.split())
        assert bool(found.err) is bool(said)
