"""A run whose steps run out of memory goes on in smaller parts, and what it gives is what such a run gives."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inlay.cli import main
from inlay.models.fake_tensors import has_values
from inlay.models.recompute import _Again
from inlay.training.active_run import ActiveRun
from inlay.training.loop import StepEvent

CLASSIFIER = ("builtin:minilm", "builtin:tickets")
WRITER = ("builtin:tiny-lm", "builtin:captions")
FLAGS = (
    "--dtype float32 --device cpu --no-forgetting --batch-size 8 --max-length 32 --epochs 1 --evaluations-per-epoch 1 "
    "--data.train-rows 32 --data.eval-rows 8"
).split()


def train(folder: Path, model: tuple[str, str], *flags: str) -> int:
    return main(["train", *model, *FLAGS, *flags, "--out", str(folder)])


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    told = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: event[key] for key in event if key != "time"} for event in told if event["event"] == kind]


def stop_after(step: int, patched: pytest.MonkeyPatch) -> None:
    """Interrupt the run after this step."""
    own = ActiveRun.on_step

    def on_step(run: ActiveRun, event: StepEvent) -> None:
        own(run, event)
        if event.step == step:
            raise KeyboardInterrupt

    patched.setattr(ActiveRun, "on_step", on_step)


@contextmanager
def memory_for(
    tokens: int, monkeypatch: pytest.MonkeyPatch, after: int = 0, recomputed: bool = False, stop: int = 0
) -> Iterator[None]:
    """A machine on which a forward pass in training has room for so many tokens, from the pass `after` that on."""
    own, passes = nn.Module.__call__, 0

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        ids = kwargs.get("input_ids")
        if (
            isinstance(ids, Tensor)
            and has_values(ids)
            and torch.is_grad_enabled()
            and hasattr(module, "get_output_embeddings")
        ):
            if not hasattr(module, "base_model_prefix") or module.base_model is not module:
                passes += 1
                freed = recomputed and any(isinstance(m.__dict__.get("forward"), _Again) for m in module.modules())
                if passes > after and ids.numel() > tokens and not freed:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return own(module, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "__call__", call)
        stop_after(stop, patched)
        yield


@pytest.mark.parametrize(("model", "tokens"), [(CLASSIFIER, 4 * 32), (WRITER, 160)], ids=["padded", "packed"])
def test_a_run_that_does_not_fit_from_the_start_is_one_with_smaller_micro_batches(
    model: tuple[str, str], tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with memory_for(tokens, monkeypatch):
        assert train(tmp_path / "shrunk", model) == 0
    (*_, last) = events(tmp_path / "shrunk", "shrink")
    assert last["step"] <= 2
    told = f"step did not fit; from then on {last['micro_batch_size']} rows at a time, for the same gradients"
    assert f"memory  a {told}" in capsys.readouterr().out
    assert json.loads((tmp_path / "shrunk" / "summary.json").read_text())["divided"][-1]["step"] == last["step"]
    assert f"A {told}." in (tmp_path / "shrunk" / "report.html").read_text()
    assert train(tmp_path / "small", model, "--micro-batch-size", str(last["micro_batch_size"])) == 0
    assert adapter(tmp_path / "shrunk") == adapter(tmp_path / "small")


def test_a_step_that_runs_out_of_memory_is_done_again_and_a_resumed_run_goes_on_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ("--method", "lora", "--method.dropout", "0.1")
    with memory_for(64, monkeypatch, after=4):
        assert train(tmp_path / "whole", CLASSIFIER, *shared) == 0
    (shrunk,) = events(tmp_path / "whole", "shrink")[:1]
    assert 1 < shrunk["step"] < 4

    with memory_for(64, monkeypatch, after=4, stop=3):
        assert train(tmp_path / "resumed", CLASSIFIER, *shared) == 130
    assert main(["resume", str(tmp_path / "resumed")]) == 0
    assert events(tmp_path / "resumed", "shrink") == events(tmp_path / "whole", "shrink")
    assert adapter(tmp_path / "resumed") == adapter(tmp_path / "whole")


def test_if_one_row_does_not_fit_every_block_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_for(1, monkeypatch, recomputed=True):
        assert train(tmp_path / "shrunk", CLASSIFIER) == 0
    told = events(tmp_path / "shrunk", "shrink")
    assert [event["micro_batch_size"] for event in told] == [4, 2, 1, 1]
    assert [event["recomputes"] for event in told] == [False, False, False, True]
    assert train(tmp_path / "small", CLASSIFIER, "--micro-batch-size", "1", "--recompute", "all") == 0
    assert adapter(tmp_path / "shrunk") == adapter(tmp_path / "small")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            (),
            "even with one row at a time and every block computed again; try a smaller --max-length",
        ),
        (("--on-oom", "stop"), "out of memory when 3.00 GiB more were asked for; try a smaller --micro-batch-size"),
    ],
)
def test_what_does_not_fit_at_all_or_may_not_shrink_ends_with_exit_code_3(
    flags: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with memory_for(1, monkeypatch):
        assert train(tmp_path / "run", CLASSIFIER, *flags) == 3
    assert words in capsys.readouterr().err
    assert len(events(tmp_path / "run", "shrink")) == (0 if flags else 4)
