"""What an adapter's or a run's files name is never fetched unless the user names it: no verb opens a connection."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import inlay
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import DataError, InlayError
from inlay.hub import offline
from inlay.lab.compare import comparison as comparison_module
from inlay.lab.compare.comparison import compare
from inlay.lab.compare.sequence import scores_on_earlier
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.trial import EARLIER, Trial
from inlay.lab.compare.worker import Outcome, failure
from inlay.training import run_state
from inlay.training.going_on import go_on
from inlay.training.run import resume
from inlay.training.settings import RunSettings, non_default, to_dict
from inlay.training.shared_base import NoSharing

from ..compare.fakes import contender
from ..edited import unseal
from ..tiny_models import reviews, write_rows
from ..training.resume.conftest import no_report  # noqa: F401
from ..training.resume.runs import interrupted, short

EVIL, EVIL_DATA = "someone/a-model", "someone/data"
CODE = {"AutoTokenizer": [f"{EVIL}--code.Own", None]}


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
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between one attempt and the next
    return attempts


@pytest.fixture
def hostile(run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose files name a model and data on a hub everywhere."""
    shutil.copytree(run, tmp_path / "run")
    adapter = tmp_path / "run" / "adapter"
    unseal(adapter)
    for name, changes in (
        ("provenance.json", {"model": EVIL, "data": {"path": EVIL_DATA}, "places": {"model": EVIL, "data": EVIL_DATA}}),
        ("adapter_config.json", {"base_model_name_or_path": EVIL, "revision": "main"}),
        ("tokenizer_config.json", {"name_or_path": EVIL, "auto_map": CODE}),
    ):
        change(adapter / name, changes)
    return tmp_path / "run"


def change(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def hostile_base(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base on this machine whose files name another on a hub, and code."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path_factory.mktemp("base") / "base"))
    change(folder / "config.json", {"_name_or_path": EVIL, "auto_map": {"AutoModel": f"{EVIL}--code.Own"}})
    change(folder / "tokenizer_config.json", {"name_or_path": EVIL, "auto_map": CODE})
    return str(folder)


def no_forgetting(base: str, rows: str, out: Path, **changes: Any) -> RunSettings[Any]:
    return short(base, rows, out, **{"forgetting": False, "epochs": 1, **changes})


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
    from inlay.methods.reparameterized.lora import LoRA
    from inlay.training.journal import Journal
    from inlay.training.prepared import prepare_run

    asked = RunSettings(model=EVIL, data=DataSettings(path=EVIL_DATA), method=LoRA())
    with pytest.raises(ValueError, match="not found on the hub"):
        prepare_run(asked, Journal(lambda _: None), tmp_path, fetch=False)
    assert not tried


def test_a_run_on_a_hostile_base_goes_on(hostile_base: str, few_reviews: str, tmp_path: Path, tried: list[Any]) -> None:
    run = interrupted(no_forgetting(hostile_base, few_reviews, tmp_path), tmp_path / "run", event="step", step=2)
    assert resume(run)["status"] == "finished"
    assert not tried


def test_a_run_on_a_base_of_a_hub_goes_on_with_what_is_here(
    tiny_bert: str,
    few_reviews: str,
    tmp_path: Path,
    tried: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its method reads the base's tokenizer as well."""
    here, commit = tmp_path / "models--someone--a-model", 40 * "a"
    shutil.copytree(tiny_bert, here / "snapshots" / commit)
    (here / "refs").mkdir()
    (here / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    method = inlay.PromptTuning(tokens=2, initialization="text", text="good film")
    with offline():
        asked = no_forgetting(EVIL, few_reviews, tmp_path, method=method)
        run = interrupted(asked, tmp_path / "run", event="step", step=2)
    assert resume(run)["status"] == "finished"
    assert main(["predict", str(run), "good film"]) == 0
    assert main(["eval", str(run)]) == 0
    assert not tried


def test_a_checkpoint_that_names_others(
    tiny_bert: str, few_reviews: str, tmp_path: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fetched only if the user names the same."""
    run = tmp_path / "run"
    asked = no_forgetting(tiny_bert, few_reviews, run)
    theirs = replace(asked, model=EVIL, data=DataSettings(path=EVIL_DATA))
    with monkeypatch.context() as patched:
        patched.setattr(run_state, "to_dict", lambda settings: to_dict(settings) | to_dict(theirs))
        interrupted(asked, run, event="step", step=2)
    assert main(["resume", str(run)]) == 2
    with pytest.raises(InlayError, match="not found on the hub"):
        go_on(asked)
    assert not tried
    (run / "run.yaml").write_text(yaml.safe_dump(non_default(theirs)))
    with pytest.raises(InlayError, match="not found on the hub"):
        go_on(theirs)
    assert tried


class ThisProcess:
    """An executor whose workers are threads: what is forbidden here is forbidden to them. The run in the folder
    `killed` is broken off within its second step, once."""

    jobs = 1

    def __init__(self, killed: str = "") -> None:
        self.killed = killed

    def on_event(self, event: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass

    def start(self) -> "ThreadWorker":
        return ThreadWorker(self)


class ThreadWorker:
    def __init__(self, place: ThisProcess) -> None:
        self.place = place
        self.connection, self.there = multiprocessing.Pipe()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        with self.there:
            trial = self.there.recv()

            def tell(event: dict[str, Any]) -> None:
                if event["event"] == "step" and event["step"] == 2 and trial.name == self.place.killed:
                    self.place.killed = ""
                    raise SystemExit
                self.there.send(event)

            with suppress(SystemExit):
                self.there.send(Outcome(failure(trial, NoSharing(), tell, ()), ends=True))

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.thread.join(seconds)

    def exit_reason(self) -> str:
        return "its thread has ended"


def test_a_task_that_is_measured_again(hostile: Path, tiny_bert: str, tried: list[Any]) -> None:
    """On the data that a comparison named, as it did once, and not on those that a run's files name by now."""
    settings = no_forgetting(tiny_bert, "elsewhere", hostile.parent / "then")
    with pytest.raises(DataError, match="a data set is fetched only where you name it"):
        scores_on_earlier(Trial(label="lora", settings=settings, earlier=(hostile,)))
    assert not tried


@pytest.mark.slow
def test_a_comparison_that_goes_on_over_hostile_runs(
    hostile_base: str, few_reviews: str, tmp_path: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is finished, one of a second task has yet to be measured on the first, and one was killed."""
    monkeypatch.setattr("inlay.lab.compare.comparison.write_comparison", lambda _: None)
    place = ThisProcess(killed="bitfit-0")
    monkeypatch.setattr(comparison_module, "_executor", lambda *_: place)
    then = str(tmp_path / "then")
    shutil.copytree(few_reviews, then)
    asked: dict[str, Any] = {"epochs": 1, "dtype": "float32", "forgetting": False, "checkpoint_minutes": 1e-9}
    comparison = CompareSettings(
        model=hostile_base, data=DataSettings(path=few_reviews), then=(then,), out=str(tmp_path / "out"), **asked
    )
    contenders = [contender("lora"), contender("bitfit")]
    first = compare(comparison, contenders)
    failed = {row.label: [reason for _, reason in row.failures] for row in first.table.rows}
    assert failed == {"lora": [], "bitfit": ["its thread has ended"]}
    assert [row.matrix is None for row in first.sequences] == [False, False, True, True]
    assert not tried

    for adapter in (tmp_path / "out").rglob("adapter"):
        unseal(adapter)
        places = {"model": EVIL, "data": EVIL_DATA}
        change(adapter / "provenance.json", {"model": EVIL, "data": {"path": EVIL_DATA}, "places": places})
    (tmp_path / "out" / "runs" / "lora-0-2-then-apart" / EARLIER).unlink()
    events: list[dict[str, Any]] = []
    second = compare(comparison, contenders, events.append)
    assert not tried
    assert [event["trial"] for event in events if event["event"] == "resume"] == ["bitfit-0"]
    assert not any(row.failures for row in second.table.rows)
    reasons = {row.way: row.reason for row in second.sequences if row.label == "lora"}
    assert reasons["on and on"] is None
    assert "a data set is fetched only where you name it" in str(reasons["apart"])


FORBIDDEN = """
import sys

def look(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({told!r}, "a") as file:
            print(event, arguments, file=file)
        raise OSError("a connection was tried")

sys.addaudithook(look)
"""


@pytest.mark.slow
def test_no_process_of_a_comparison_opens_a_connection(
    hostile_base: str, few_reviews: str, hostile: Path, tmp_path: Path
) -> None:
    """Nor does any of a hostile adapter's: with Python's own hook, in each process as it starts."""
    told = tmp_path / "told.txt"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(FORBIDDEN.format(told=str(told)))
    paths = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "0"}

    def run(*arguments: str) -> int:
        return subprocess.run([sys.executable, "-m", "inlay", *arguments], env=environment, check=False).returncode

    flags = ("--epochs", "1", "--dtype", "float32", "--no-forgetting", "--out", str(tmp_path / "out"))
    command = ("compare", hostile_base, few_reviews, "--methods", "lora", "bitfit", *flags)
    assert run(*command) == 0
    for adapter in (tmp_path / "out").rglob("adapter"):
        unseal(adapter)
        change(adapter / "provenance.json", {"model": EVIL, "data": {"path": EVIL_DATA}})
    shutil.rmtree(tmp_path / "out" / "runs" / "bitfit-0")
    assert run(*command) == 0
    assert run("predict", str(hostile), "a text", "--model", hostile_base) == 0
    assert not told.exists()
    assert run("predict", str(hostile), "a text", "--allow-download") == 2
    assert told.exists()
