"""Processes that were started together train together, or are told why not before anything is read."""

from pathlib import Path

import pytest

from inlay import launch
from inlay.cli import ALONE, main
from inlay.errors import SettingsError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launch._OF_OTHERS, *launch._OF_ACCELERATE, launch._MIXED, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("verb", ALONE)
def test_what_only_one_process_does_is_refused_in_several(
    verb: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "2")
    assert main([verb]) == 2
    assert f"{name} is 2, and only train and resume run in several processes" in capsys.readouterr().err


def test_processes_that_do_not_learn_of_each_other_do_not_train(
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = ["train", tiny_bert, reviews_folder, "--out", str(tmp_path / "out")]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for more in ([], ["--processes", "2"]):
        assert main([*train, *more]) == 2
        assert "SLURM_STEP_NUM_TASKS is 4: each of so many processes would train" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "4")
    for needed in launch._NEEDED:
        monkeypatch.delenv(needed, raising=False)
    assert main(train) == 2
    assert "WORLD_SIZE is 4, but RANK and MASTER_ADDR and MASTER_PORT are not set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "2"), ("RANK", "one"), ("RANK", "-1"), ("MASTER_PORT", "port"), ("MASTER_PORT", "70000")],
)
def test_a_place_among_the_processes_that_is_none_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for each, its in (place | {name: value}).items():
        monkeypatch.setenv(each, its)
    with pytest.raises(SettingsError, match=f"variable {name} is {value!r}; it takes a number from 0 to "):
        launch.check_launcher()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "use DeepSpeed .*--shard"),
        ("ACCELERATE_USE_FSDP", "true", "use FSDP .*--shard"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "use Megatron-LM .*--shard"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "a parallelism config .*layers and texts are not divided"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "compute in bf16 .*Inlay --dtype"),
    ],
)
def test_what_accelerate_was_told_to_do_is_not_ignored(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=told):
        launch.check_launcher()


@pytest.mark.parametrize("value", ["1", "", "0", "two"])
def test_one_process_trains(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launch.check_launcher()
    launch.check_alone()
    assert launch.own_number() == 0


def test_all_but_the_first_process_are_silent(
    tiny_bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number, said in (("0", "--processes is 3, and 2 processes were started already"), ("1", "")):
        monkeypatch.setenv("RANK", number)
        assert main(["train", tiny_bert, "rows.csv", "--processes", "3"]) == 2
        found = " ".join(capsys.readouterr().err.split())
        assert said in found
        assert bool(found) is bool(said)
