"""What an adapter's or a run's files name is never fetched unless the user names it: no verb opens a connection."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main

from ..edited import unseal
from ..tiny_models import reviews, write_rows

EVIL = "someone/a-model"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    folder = tmp_path_factory.mktemp("connections")
    rows = write_rows(folder / "rows.jsonl", reviews(40))
    flags = ["--epochs", "1", "--no-forgetting", "--method.rank", "2", "--out", str(folder / "run")]
    assert main(["train", tiny_bert, rows, "--method", "lora", *flags]) == 0
    return folder / "run"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine, where the hub's libraries would try."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("a connection was tried")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def hostile(run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose files name a model and data on a hub everywhere."""
    shutil.copytree(run, tmp_path / "run")
    adapter = tmp_path / "run" / "adapter"
    unseal(adapter)
    for name, changes in (
        ("provenance.json", {"model": EVIL, "data": {"path": "someone/data"}, "places": {"model": EVIL, "data": EVIL}}),
        ("adapter_config.json", {"base_model_name_or_path": EVIL, "revision": "main"}),
        ("tokenizer_config.json", {"name_or_path": EVIL, "auto_map": {"AutoTokenizer": [f"{EVIL}--code.Own", None]}}),
    ):
        path = adapter / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / "run"


VERBS = {
    "predict": ["predict", "{run}", "a text"],
    "eval": ["eval", "{run}"],
    "merge": ["merge", "{run}", "{run}/merged"],
    "rank": ["rank", "{run}"],
    "rank with": ["rank", "{run}", "--with", "{run}"],
    "resume": ["resume", "{run}"],
}


@pytest.mark.parametrize("named", [False, True], ids=["base of the files", "base of the user"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_adapter(
    verb: str, named: bool, hostile: Path, tiny_bert: str, tried: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part.format(run=hostile) for part in VERBS[verb]]
    more = ["--model", tiny_bert] if named and verb != "resume" else []
    capsys.readouterr()
    code = main([*arguments, *more])
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not tried
    assert named or code == 2


def test_a_network_is_asked_once_the_user_allows_it(hostile: Path, tiny_bert: str, tried: list[Any]) -> None:
    """The switch does something: or the tests above could not fail."""
    assert main(["predict", str(hostile), "a text", "--allow-download"]) == 2
    assert tried


def test_a_start_from_a_hostile_adapter(hostile: Path, tiny_bert: str, tmp_path: Path, tried: list[Any]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", reviews(40))
    flags = ["--method", "multitask-prompt", "--method.source", str(hostile), "--out", str(tmp_path / "out")]
    assert main(["train", tiny_bert, rows, *flags]) == 2
    assert not tried


def test_an_interrupted_run_of_a_hub_is_not_fetched(
    run: Path, tmp_path: Path, tried: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from inlay.data.settings import DataSettings
    from inlay.methods.reparameterized.lora import LoRA
    from inlay.training.journal import Journal
    from inlay.training.prepared import prepare_run
    from inlay.training.settings import RunSettings

    asked = RunSettings(model=EVIL, data=DataSettings(path="someone/data"), method=LoRA())
    with pytest.raises(ValueError, match="not found on the hub"):
        prepare_run(asked, Journal(lambda _: None), tmp_path, fetch=False)
    assert not tried
