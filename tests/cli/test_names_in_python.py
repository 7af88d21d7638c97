"""What is nearly the name of something: a setting in Python, a path on the command line."""

import dataclasses
import pickle
from pathlib import Path

import pytest

import inlay
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.formats.paths import nearest_path
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.rank.analysis import RankSettings
from inlay.training.settings import RunSettings


@pytest.mark.parametrize("name", inlay.METHODS)
def test_every_method_names_the_setting_that_was_meant(name: str) -> None:
    method = inlay.METHODS[name]
    for field in dataclasses.fields(method):
        with pytest.raises(SettingsError, match=rf"{method.__name__} has no setting {field.name}x; .*\b{field.name}\b"):
            method(**{f"{field.name}x": 1})
    with pytest.raises(SettingsError, match="has no setting colour"):
        method(colour=1)


@pytest.mark.parametrize(
    ("settings", "asked", "meant"),
    [
        (inlay.LoRA, "r", "rank"),
        (inlay.LoRA, "lora_alpha", "alpha"),
        (inlay.LoRA, "target_modules", "targets"),
        (inlay.AdaLoRA, "r", "target_rank"),
        (DataSettings, "sep", "separator"),
        (RunSettings, "lr", "learning_rate"),
        (CompareSettings, "num_train_epochs", "epochs"),
        (RankSettings, "rnaks", "ranks"),
    ],
)
def test_others_words_are_known_in_python_too(settings: type, asked: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"{settings.__name__} has no setting {asked}; did you mean {meant}\?"):
        settings(**{asked: 8})


def test_all_unknown_settings_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        inlay.LoRA(r=8, alpha=2, xyz=1, uvw=2)  # pyright: ignore[reportArgumentType]
    first, second, third = str(caught.value).splitlines()
    assert first == "LoRA has no setting r; did you mean rank?"
    assert second == "LoRA has no setting xyz"
    assert third.startswith("LoRA has no setting uvw; known: alpha, ")


def test_settings_are_copied_and_pickled_as_before() -> None:
    method = inlay.LoRA(rank=3)
    assert dataclasses.replace(pickle.loads(pickle.dumps(method)), alpha=6) == inlay.LoRA(rank=3, alpha=6)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("eval run/first", "runs/first"),
        ("predict runs/frist x", "runs/first"),
        ("predict runs/first nwe.jsonl", "new.jsonl"),
        ("rank run/first", "runs/first"),
        ("merge run/first out", "runs/first"),
        ("resume run/first", "runs/first"),
        ("train modle rows.jsonl", "model"),
        ("train builtin:tiny-lm nwe.jsonl", "new.jsonl"),
        ("data fodler/new.jsonl", "folder/new.jsonl"),
    ],
)
def test_a_path_that_is_nearly_there_is_suggested(
    arguments: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/first/run.yaml", "model/config.json", "new.jsonl", "folder/new.jsonl"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}", encoding="utf-8")
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert f"; did you mean {meant}?" in said
    assert "?;" not in said


def test_nothing_is_suggested_where_nothing_is_like_it(tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert nearest_path(tmp_path / "data" / "first") == ""
    assert nearest_path(tmp_path / "runs" / "second") == ""
    assert nearest_path(tmp_path / "run" / "first", "config.json") == ""
    assert nearest_path(tmp_path / "runs" / "first") == ""
