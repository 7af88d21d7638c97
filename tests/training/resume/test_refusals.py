"""What no run goes on from, and what it is told."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inlay.errors import CheckpointError, InvalidRequest, SettingsError
from inlay.lab.compare.trial import Trial
from inlay.lab.compare.worker import run_trial
from inlay.training import run as run_module
from inlay.training import run_output
from inlay.training.checkpoint import CHECKPOINT
from inlay.training.run import resume, train
from inlay.training.run_state import versions
from inlay.training.settings import from_dict, to_dict
from inlay.training.shared_base import NoSharing

from .runs import StopAt, interrupted, short, told


@pytest.fixture(scope="module")
def stopped(dropping_bert: str, few_reviews: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its fifth step. Its model and data are copies beside it."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(dropping_bert, folder / "model")
    shutil.copytree(few_reviews, folder / "data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_output, "write_report", lambda *_: None)
        return interrupted(
            short(str(folder / "model"), str(folder / "data"), folder), folder / "run", event="step", step=5
        )


def refused(run: Path, message: str) -> None:
    """With this message, and the folder as it was."""
    kept = [p for p in run.rglob("*") if p.name not in ("metrics.jsonl", "log.txt")] if run.is_dir() else []
    before = {p: p.read_bytes() for p in kept if p.is_file()}
    with pytest.raises(InvalidRequest, match=message):
        resume(run)
    assert {p: p.read_bytes() for p in before} == before


def test_what_is_no_run_is_refused(tmp_path: Path, stopped: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: not the folder of a run, which has a run.yaml; no such folder")
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, r"it holds notes\.txt")
    refused(stopped / "checkpoints", r"it holds last\.safetensors")


def test_a_run_at_which_another_process_is_at_work_is_refused(stopped: Path, tmp_path: Path) -> None:
    """And left alone by a comparison, too, which clears away runs that cannot go on."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    holding = "import sys; from pathlib import Path; from inlay.formats.files import held"
    code = f"{holding}\nwith held(Path({str(run)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        log = (run / "log.txt").read_bytes()
        refused(run, "run is being written by another process")
        with pytest.raises(SettingsError, match="another process"):
            run_trial(Trial(label="lora", settings=short("m", "d", run)), NoSharing(), lambda _: None, ())
        (run / CHECKPOINT).rename(tmp_path / CHECKPOINT.name)  # as long as there is none yet
        with pytest.raises(SettingsError, match="another process"):
            run_trial(Trial(label="lora", settings=short("m", "d", run)), NoSharing(), lambda _: None, ())
        (tmp_path / CHECKPOINT.name).rename(run / CHECKPOINT)
        assert (run / "log.txt").read_bytes() == log
        other.kill()
    assert resume(run)["status"] == "finished"


def test_a_finished_run_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    train(short(dropping_bert, few_reviews, tmp_path / "run", epochs=1))
    refused(tmp_path / "run", r"run is finished; .* inlay train --config .*run\.yaml --out NEW")


def test_a_run_that_was_interrupted_too_early_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(short(dropping_bert, few_reviews, tmp_path / "run"), StopAt(event="plan"))
    assert "inlay train --config" in told(tmp_path / "run")["reason"]
    refused(tmp_path / "run", r"no checkpoint to go on from: it was interrupted before it wrote one; begin anew: inlay")


def test_other_rows_are_refused(stopped: Path) -> None:
    for split in ("train", "valid"):
        path = stopped.parent / "data" / f"{split}.jsonl"
        rows = path.read_text()
        path.write_text(rows.replace('"positive"', '"negative"', 1))
        refused(stopped, r"data has other rows, the tokenizer reads them otherwise")
        path.write_text(rows.replace("good", "great", 1))
        refused(stopped, "other rows")
        path.write_text(rows)


def test_other_text_to_retain_is_refused(dropping_bert: str, few_reviews: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"the film was great and so was part {i}" for i in range(60)))
    asked = short(dropping_bert, few_reviews, tmp_path, retain=str(text))
    run = interrupted(asked, tmp_path / "run", event="step", step=4)
    text.write_text(text.read_text().replace("great", "poor"))
    with pytest.raises(CheckpointError, match="general text is not what it was"):
        resume(run)


def test_another_base_is_refused(stopped: Path) -> None:
    path = stopped.parent / "model" / "model.safetensors"
    original = path.read_bytes()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file(tensors | {name: tensors[name] + 1}, path, metadata={"format": "pt"})
    refused(stopped, r"begun on a base model with fingerprint \w{12}; the one that its settings name now has \w{12}")
    path.write_bytes(original)


def test_edited_settings_are_refused(stopped: Path) -> None:
    path = stopped / "run.yaml"
    original = path.read_text()
    path.write_text(original.replace("epochs: 3", "epochs: 30"))
    refused(stopped, r"run\.yaml was changed since the run began, which goes on as it began or not at all")
    path.write_text(original)


def test_half_a_checkpoint_is_refused(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    original = path.read_bytes()
    for part in (original[:-100], original[:100], b"", b"{}" * 50):
        path.write_bytes(part)
        refused(stopped, rf"a checkpoint of {len(part)} bytes that cannot be read \(.*\); begin anew: inlay train")
    path.write_bytes(original)


def test_an_adapter_with_other_tensors_is_refused(stopped: Path) -> None:
    path = stopped / CHECKPOINT
    original = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("adapter."))
    del metadata["digest"]
    save_file({key: t for key, t in tensors.items() if key != name}, path, metadata=metadata)
    refused(stopped, rf"adapter: only the training has {re.escape(name.removeprefix('adapter.'))}")
    path.write_bytes(original)


def test_settings_of_another_version_are_refused(stopped: Path) -> None:
    values = to_dict(short("m", "d", stopped))
    with pytest.raises(SettingsError, match="another version of Inlay had other settings: .*colour"):
        from_dict(values | {"colour": "red"})
    with pytest.raises(SettingsError, match="other settings: .*rnak"):
        from_dict(values | {"method": values["method"] | {"rnak": 4}})


def test_another_version_is_told_and_goes_on(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    monkeypatch.setattr(run_module, "versions", lambda: versions() | {"torch": "9.9"})
    events: list[dict[str, Any]] = []
    assert resume(run, events.append)["status"] == "finished"
    (note,) = (e["text"] for e in events if e["event"] == "note" and "begun" in e["text"])
    assert note == f"begun with torch {torch.__version__}, not 9.9: what follows may differ in the last digits"
    (event,) = (e for e in events if e["event"] == "resume")
    assert (event["step"], event["steps"]) == (5, 9)
