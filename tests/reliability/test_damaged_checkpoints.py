"""A checkpoint in which a bit has changed, or that holds what no training has, is found and never gone on from."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from inlay.errors import CheckpointError, SettingsError
from inlay.formats.files import held
from inlay.training import checkpoint as checkpoint_module
from inlay.training import run_output
from inlay.training.checkpoint import CHECKPOINT, CHECKPOINT_BEFORE, read_checkpoint, write_checkpoint
from inlay.training.run import resume, train

from ..training.resume.conftest import no_report  # noqa: F401
from ..training.resume.runs import StopAt, assert_same, short
from .known_parts import make_once


@pytest.fixture(scope="module")
def runs(
    dropping_bert: str,
    few_reviews: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A whole run, and one that was interrupted after its fifth step, with a checkpoint of each of the steps."""
    folder = tmp_path_factory.mktemp("runs")
    asked: dict[str, Any] = {"forgetting": False, "checkpoint_minutes": 1e-9}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_output, "write_report", lambda *_: None)
        train(short(dropping_bert, few_reviews, folder / "whole", **asked))
        with pytest.raises(KeyboardInterrupt):
            train(short(dropping_bert, few_reviews, folder / "stopped", **asked), StopAt(event="step", step=6))
    shutil.copytree(folder / "stopped", folder / "of before")
    (folder / "stopped" / CHECKPOINT_BEFORE).unlink()
    return folder


def test_a_flipped_bit_is_found_wherever_it_is(runs: Path) -> None:
    """Half of the places are in the header."""
    run = runs / "stopped"
    path, drawn = run / CHECKPOINT, random.Random(0)
    original = path.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    assert read_checkpoint(run).progress["step"] == 6
    for number in range(200):
        byte = drawn.randrange(header) if number % 2 else drawn.randrange(header, len(original))
        damaged = bytearray(original)
        damaged[byte] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.safetensors: .*; begin anew: inlay train --config"):
            read_checkpoint(run)
    path.write_bytes(original)


def test_every_bit_of_the_name_of_the_digest_counts(runs: Path) -> None:
    """A digest that cannot be found must not pass for that of a version which wrote none."""
    run = runs / "stopped"
    path = run / CHECKPOINT
    original = path.read_bytes()
    start = original.index(b'"digest"')
    for bit in range(8 * start, 8 * (start + len('"digest":"') + 3)):
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_checkpoint(run)
    path.write_bytes(original)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_which_is_said(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "of before", run)
    path = run / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-50])
    events: list[dict[str, Any]] = []

    def look(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "resume":
            before.append(read_last(run))

    before: list[int] = []
    assert resume(run, look)["status"] == "finished"
    (note,) = (event["text"] for event in events if event["event"] == "note" and "cannot be read" in event["text"])
    assert note.startswith(f"{path}: a checkpoint of {len(path_bytes(runs)) - 50} bytes that cannot be read (")
    assert note.endswith("; going on from the one before it, of step 5")
    assert note in (run / "log.txt").read_text()
    (resumed,) = (event for event in events if event["event"] == "resume")
    assert resumed["step"] == 5
    assert before == [5]  # the damaged one will not be the one before
    assert_same(run, runs / "whole")


def path_bytes(runs: Path) -> bytes:
    return (runs / "of before" / CHECKPOINT).read_bytes()


def read_last(run: Path) -> int:
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        return checkpoint_module.read_checkpoint_file(run / CHECKPOINT, "").header["progress"]["step"] if file else -1


def test_a_run_whose_last_checkpoint_is_gone_goes_on_from_the_one_before_it(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "of before", run)
    (run / CHECKPOINT).unlink()
    assert read_checkpoint(run).progress["step"] == 5
    resume(run)
    assert_same(run, runs / "whole")


def test_two_damaged_checkpoints_are_refused_and_kept(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "of before", run)
    for name in (CHECKPOINT, CHECKPOINT_BEFORE):
        (run / name).write_bytes(b"{}" * 100)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"last\.safetensors: a checkpoint of 200 bytes that cannot be read"):
        resume(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {}


@pytest.fixture
def known(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_once(parts, monkeypatch)


def rewritten(run: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """The checkpoint, as a version without digests would have written it, with other tensors."""
    path = run / CHECKPOINT
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    tensors = load_file(path)
    change(tensors)
    del texts["digest"]
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, metadata=texts)


def first(tensors: dict[str, Tensor], start: str) -> str:
    return next(key for key in sorted(tensors) if key.startswith(start) and tensors[key].numel() > 1)


STARTS = ("adapter.", "best.", "optimizer.")
CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "integers": (lambda t: t.int(), "int32"),
    "booleans": (lambda t: t.bool(), "bool"),
    "complex": (lambda t: t.to(torch.complex64), "complex numbers"),
    "other floats": (lambda t: t.bfloat16(), "bfloat16"),
    "doubles": (lambda t: t.double(), "float64"),
    "NaN": (lambda t: t.index_fill(0, torch.tensor([0]), float("nan")), "not finite"),
    "infinity": (lambda t: t.index_fill(0, torch.tensor([0]), float("-inf")), "not finite"),
    "transposed": (lambda t: t.unsqueeze(0), r"of \[1, "),
    "cut": (lambda t: t[:-1], "this training has"),
}


@pytest.mark.parametrize(
    ("name", "start"),
    [(name, "adapter.") for name in CHANGES] + [(n, s) for n in ("integers", "NaN", "cut") for s in STARTS[1:]],
)
def test_what_no_training_has_is_refused(name: str, start: str, runs: Path, tmp_path: Path, known: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "stopped", run)
    change, said = CHANGES[name]

    def changed(tensors: dict[str, Tensor]) -> None:
        key = first(tensors, start)
        tensors[key] = change(tensors[key])

    rewritten(run, changed)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in ("metrics.jsonl", "log.txt")}
    with pytest.raises(CheckpointError, match=rf"last\.safetensors: .*{said}.*; begin anew"):
        resume(run)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize("start", STARTS)
def test_a_tensor_too_few_or_too_many_is_refused(start: str, runs: Path, tmp_path: Path, known: None) -> None:
    for change in (
        lambda tensors: tensors.pop(first(tensors, start)),
        lambda tensors: tensors.update({f"{start}no.such": torch.zeros(2)}),
    ):
        run = tmp_path / "run"
        shutil.copytree(runs / "stopped", run)
        rewritten(run, change)
        with pytest.raises(CheckpointError, match="only the (checkpoint|training) has"):
            resume(run)
        shutil.rmtree(run)


def test_a_checkpoint_without_a_digest_is_one_of_an_earlier_version(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "stopped", run)
    rewritten(run, lambda _: None)
    resume(run)
    assert_same(run, runs / "whole")


def test_numbers_that_are_not_finite_do_not_take_the_place_of_a_checkpoint(
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoiled(folder: Path, training: Any, about: Any) -> None:
        if training.progress.step == 4:
            next(training.adapter.parameters()).data.fill_(float("nan"))
        write_checkpoint(folder, training, about)

    def stop(event: dict[str, Any]) -> None:
        if "could not be written" in event.get("text", ""):
            raise KeyboardInterrupt

    monkeypatch.setattr("inlay.training.keeper.write_checkpoint", spoiled)
    asked = short(dropping_bert, few_reviews, tmp_path / "run", forgetting=False, checkpoint_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        train(asked, stop)
    assert "the checkpoint could not be written: " in (tmp_path / "run" / "log.txt").read_text()
    assert "not finite" in (tmp_path / "run" / "log.txt").read_text()
    assert read_checkpoint(tmp_path / "run").progress["step"] == 3


def test_a_run_is_held_before_its_checkpoint_is_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process could replace the file between the reading of its header and of its tensors."""
    read, asked = checkpoint_module.read_checkpoint_file, []

    def look(path: Path, todo: str) -> Any:
        with pytest.raises(SettingsError, match="being written by another process"), held(runs / "stopped"):
            pass
        asked.append(path)
        (runs / "stopped" / "run.yaml").rename(runs / "run.yaml")  # so that it does not go on
        return read(path, todo)

    monkeypatch.setattr(checkpoint_module, "read_checkpoint_file", look)
    with pytest.raises(CheckpointError):
        resume(runs / "stopped")
    (runs / "run.yaml").rename(runs / "stopped" / "run.yaml")
    assert asked == [runs / "stopped" / CHECKPOINT]  # once
