"""Whatever is in a run's checkpoint, the run goes on from it rightly or refuses: an error with exit 2 to 5, in time.

The damage is to the file as it is, which its digest tells, and to files whose digest was made anew or taken away, so
that what reads them is tried as well. A run that does go on is stopped before its next step, and writes its files.
"""

import json
import math
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from safetensors.torch import load

import inlay
from inlay.errors import InvalidRequest
from inlay.training import active_run
from inlay.training.checkpoint import CHECKPOINT, CHECKPOINT_BEFORE, read_checkpoint
from inlay.training.checkpoint_file import _digest
from inlay.training.run import resume

from ..shapes import SHAPES
from ..tiny_models import save_tiny_model
from ..training.resume.conftest import no_report  # noqa: F401
from ..training.resume.runs import interrupted, short
from .attempts import MANY, fuzz, try_all
from .known_parts import make_once
from .mutations import byte_edits, json_edits, tensor_edits

pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = {cls.name: cls(targets=("query",)) for cls in (inlay.LoRA, inlay.AdaLoRA)}  # the second remembers averages
WRITTEN = ("metrics.jsonl", "log.txt", "summary.json")


@pytest.fixture(params=METHODS)
def run(
    request: pytest.FixtureRequest,
    dropping_bert: str,
    few_reviews: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run that was stopped after its fifth step."""
    base = save_tiny_model(SHAPES["bert"].shallow, tmp_path / "base")
    asked = short(base, few_reviews, tmp_path / "run", method=METHODS[request.param], forgetting=False)
    run = interrupted(asked, tmp_path / "run", event="step", step=5)
    make_once({}, monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return run


def _texts(data: bytes) -> tuple[dict[str, Any], dict[str, str], bytes]:
    """The header of a checkpoint, the texts in it, and its numbers."""
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    return head, head["__metadata__"], data[8 + size :]


def _file(head: dict[str, Any], numbers: bytes) -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + numbers


@st.composite
def text_edits(draw: st.DrawFn, data: bytes) -> bytes:
    """A checkpoint in which one of the texts says something else."""
    head, texts, numbers = _texts(data)
    name = draw(st.sampled_from(["about", "about", "progress", "progress", "strides", "random"]))
    texts[name] = draw(json_edits(texts[name])).decode()
    return _file(head, numbers)


@st.composite
def checkpoint_edits(draw: st.DrawFn, data: bytes) -> bytes:
    """A checkpoint that is damaged, as its digest tells or, if it can be read, does not tell."""
    edits = draw(st.sampled_from([byte_edits, tensor_edits, tensor_edits, text_edits, text_edits, text_edits]))
    data, digest = draw(edits(data)), draw(st.sampled_from(["kept", "made anew", "made anew", "taken away"]))
    if digest == "kept":
        return data
    try:
        head, texts, numbers = _texts(data)
        del texts["digest"]
        if digest == "made anew":
            texts["digest"] = _digest(texts, load(data))
        return _file(head, numbers)
    except Exception:  # it is no checkpoint any more
        return data


def check(training: Any) -> None:
    """The training is one that can go on."""
    for key, tensor in training.adapter.state_dict().items():
        assert not tensor.is_complex(), key
        assert tensor.isfinite().all(), key
    for state in training.optimizer.state_dict()["state"].values():
        assert all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in state.values())
    progress = training.progress
    assert all(type(getattr(progress, name)) is int for name in ("step", "evaluated", "best_step", "tokens"))
    assert type(progress.seconds) in (int, float)
    scores = (progress.best or {}).values()
    assert all(type(score) in (int, float) and math.isfinite(score) for score in scores)
    assert all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in progress.best_state.values())


@fuzz(250, MANY // len(METHODS))
def test_a_checkpoint(examples: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: (run / name).read_bytes() for name in WRITTEN}
    original = (run / CHECKPOINT).read_bytes()

    def stopped(training: Any, *_: Any) -> None:
        check(training)
        raise KeyboardInterrupt

    def read() -> None:
        (run / CHECKPOINT_BEFORE).unlink(missing_ok=True)
        for name, content in written.items():
            (run / name).write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            resume(run)
        summary = json.loads((run / "summary.json").read_text(), parse_constant=lambda word: pytest.fail(word))
        assert summary["status"] == "interrupted"
        read_checkpoint(run)

    monkeypatch.setattr(active_run, "fit", stopped)
    try_all(examples, {run / CHECKPOINT: checkpoint_edits(original)}, read)


UNTOLD: list[tuple[str, Any]] = [  # what no run tells of itself
    ("about.settings", []),
    ("about.settings.method", None),
    ("about.settings.data", ["rows.jsonl"]),
    ("about.asked", 3),
    ("about.base", {}),
    ("about.command", "train"),
    ("about.versions.torch", 2),
    ("about.train_seconds", "1"),
    ("about.wall_seconds", math.nan),
    ("about.peak_memory_bytes", 10**400),
    ("progress.tokens", 2**60),
    ("progress.evaluated", 6),
    ("progress.best_step", 6),
    ("progress.best", None),
    ("progress.best.accuracy", math.nan),
    ("progress.best.loss", "0.5"),
    ("progress.changed", 1),
    ("progress.seconds", 10**400),
    ("strides", []),
    ("random.python.1.3", "x"),
    ("random.python.2", "x"),
    ("random.numpy.state.pos", 10_000_000),
    ("random.numpy.state.key.3", 0.5),
    ("random.numpy.gauss", math.nan),
]


@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_what_no_run_tells_of_itself_is_refused(run: Path) -> None:
    original = (run / CHECKPOINT).read_bytes()
    state = random.getstate()
    for name, value in [
        *UNTOLD,
        *(("strides", {_matrix(original): strides}) for strides in ([0, 0], [1, 1], [2**40, 1])),
    ]:
        head, texts, numbers = _texts(original)
        text, *path, last = name.split(".") if "." in name else (name, None)
        told = json.loads(texts[text])
        at = told
        for key in path:
            at = at[int(key) if isinstance(at, list) else key]
        if last is None:
            told = value
        else:
            at[int(last) if isinstance(at, list) else last] = value
        texts[text] = json.dumps(told)
        texts["digest"] = _digest({k: v for k, v in texts.items() if k != "digest"}, load(original))
        (run / CHECKPOINT).write_bytes(_file(head, numbers))
        with pytest.raises(InvalidRequest, match=r"last\.safetensors: .*; begin anew|another version of Inlay"):
            resume(run)
        assert random.getstate() == state, name


def _matrix(data: bytes) -> str:
    return next(key for key, entry in _texts(data)[0].items() if len(entry.get("shape", ())) == 2)
