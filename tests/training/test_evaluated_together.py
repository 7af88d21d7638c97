"""What a run evaluates, writes and measures is shared by its processes, and is what one process finds."""

import json
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import inlay
from inlay import processes
from inlay.batches import evaluated
from inlay.tasks import causal, generate

from ..reliability.kills import finished
from ..shapes import SHAPES, method
from ..tiny_models import WORDS, reviews, write_rows
from .resume.runs import assert_same, short

ROWS = {"train": 24, "valid": 70}  # of which not all of three processes have as many batches


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("labelled")
    for split, count in ROWS.items():
        write_rows(folder / f"{split}.jsonl", reviews(count, start=50 * (split == "valid")))
    return str(folder)


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prompted")
    for split, count in ROWS.items():
        texts = [" ".join(WORDS[(3 * i + k) % len(WORDS)] for k in range(2 + i % 7)) for i in range(count)]
        rows = [{"prompt": f"{text} {i}", "completion": text.split()[-1]} for i, text in enumerate(texts)]
        write_rows(folder / f"{split}.jsonl", rows)
    return str(folder)


def evaluating(model: str, data: str, out: Path, **changes: Any) -> Any:
    """A run whose passages fill several batches, as a budget measures all of them."""
    given = {"batch_size": 10, "micro_batch_size": 2, "epochs": 2, "forget_at_most": 0.9, "device": "cpu"}
    return short(model, data, out, **given | changes)


@pytest.mark.parametrize("task", ["labels", "texts"])
def test_scores_texts_and_forgetting_are_those_of_one_process(
    task: str, tiny_bert: str, tiny_llama: str, labelled: str, prompted: str, tmp_path: Path
) -> None:
    model, data = (tiny_bert, labelled) if task == "labels" else (tiny_llama, prompted)
    more = {"samples": 40, "method": method("lora", SHAPES["llama"])} if task == "texts" else {"retain_weight": 0.5}
    for number in (1, 3):
        assert finished(evaluating(model, data, tmp_path / str(number), **more), together=number) == 0
    assert_same(tmp_path / "3", tmp_path / "1")
    parts = [(tmp_path / name / "score_parts.json").read_text() for name in ("1", "3")]
    assert parts[0] == parts[1]
    summary = json.loads((tmp_path / "3" / "summary.json").read_text())
    assert summary["forgetting"]["passages"] > 32
    assert summary["budget"]["tried"]


def fails_to_write(number: int) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("there are no words")

    if number == 1:
        generate._left_padded = failing


def fails_to_score(number: int) -> None:
    def failing(*_: object) -> None:
        raise ValueError("there is no loss")

    if number == 1:
        causal.padded = failing


def test_what_fails_in_one_process_fails_in_all(tiny_llama: str, prompted: str, tmp_path: Path) -> None:
    asked = partial(evaluating, tiny_llama, prompted, method=method("lora", SHAPES["llama"]), forget_at_most=None)
    given = {"samples": 40, "forgetting": False}
    assert finished(asked(tmp_path / "words", **given), together=2, fault=fails_to_write) == 0
    log = (tmp_path / "words" / "log.txt").read_text()
    assert "no texts were written for valid" in " ".join(log.split())
    assert "there are no words" in log
    assert finished(asked(tmp_path / "loss", **given), together=2, fault=fails_to_score) == 1
    reason = json.loads((tmp_path / "loss" / "summary.json").read_text())["reason"]
    assert "ValueError: there is no loss" in reason
    assert "in process 1" in reason or "process 1 failed" in reason


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fails_to_write, fails_to_score])
def test_what_fails_in_one_process_that_has_a_part_of_the_base_ends_all(
    fault: Callable[[int], None], tiny_llama: str, prompted: str, tmp_path: Path
) -> None:
    """The others wait for its part, in a call of the model, where no other word of it is heard."""
    given = {"method": method("lora", SHAPES["llama"]), "forget_at_most": None, "forgetting": False}
    asked = evaluating(tiny_llama, prompted, tmp_path / "run", samples=40, shard=True, **given)
    assert finished(asked, together=2, fault=fault) == 1
    reason = json.loads((tmp_path / "run" / "summary.json").read_text())["reason"]
    assert reason.startswith("process 1 failed: Traceback")
    assert ("there are no words" if fault is fails_to_write else "there is no loss") in reason


def counts_bytes(number: int, folder: Path) -> None:
    """Write down what this process sends to others: a line for each exchange."""
    told = (folder / f"sent-{number}").open("w", buffering=1)
    exchange, gather, objects = dist.all_to_all_single, processes._all_gather, dist.all_gather_object

    def all_to_all_single(out: Tensor, own: Tensor, of_others: Sequence[int], of_own: Sequence[int]) -> None:
        sent = sum(of_own) - of_own[number]
        told.write(json.dumps(["gradients", 4 * sent]) + "\n")
        exchange(out, own, of_others, of_own)

    def all_gather(out: Tensor, own: Tensor) -> None:
        told.write(json.dumps(["sums", 4 * (out.numel() - own.numel())]) + "\n")
        gather(out, own)

    def all_gather_object(out: list[Any], own: object) -> None:
        told.write(json.dumps(["objects", len(pickle.dumps(own)) * (len(out) - 1)]) + "\n")
        objects(out, own)

    dist.all_to_all_single, processes._all_gather = all_to_all_single, all_gather
    dist.all_gather_object = all_gather_object


def test_a_step_sends_what_docs_scale_says(tiny_bert: str, labelled: str, tmp_path: Path) -> None:
    """(own micro-batches + 1) (n - 1) / n x 4 bytes for each number that is trained, and a few hundred beside."""
    asked = evaluating(tiny_bert, labelled, tmp_path / "run", forget_at_most=None, forgetting=False, epochs=1)
    assert finished(asked, together=2, fault=partial(counts_bytes, folder=tmp_path)) == 0
    trained = json.loads((tmp_path / "run" / "summary.json").read_text())["trainable_parameters"]
    shares = []
    for number in (0, 1):
        sent: dict[str, list[int]] = {"gradients": [], "sums": [], "objects": [0]}
        for kind, count in map(json.loads, (tmp_path / f"sent-{number}").read_text().splitlines()):
            if kind == "objects":
                sent[kind][-1] += count
            else:
                sent[kind].append(count)
            if kind == "gradients":
                sent["objects"].append(0)
        own = [
            2 * (there + back) / 4 / trained - 1 for there, back in zip(sent["gradients"], sent["sums"], strict=True)
        ]
        assert own == pytest.approx([round(each) for each in own], abs=8 / trained)
        shares.append([round(each) for each in own])
        assert 0 < min(sent["objects"]) < 500  # between two steps without an evaluation
    assert sorted(map(sum, zip(*shares, strict=True))) == [2, 5, 5]  # micro-batches: of 4 rows, 10 and 10
    assert {tuple(sorted(each)) for each in zip(*shares, strict=True)} == {(1, 1), (2, 3)}


@pytest.mark.slow
def test_processes_learn_source_tasks_together(
    tiny_bert: str, labelled: str, reviews_folder: str, tmp_path: Path
) -> None:
    """Each process but the first has teachers in a folder of its own, where it finds them again."""
    asked = inlay.MultitaskPrompt(tokens=4, sources=(labelled, reviews_folder))
    for number in (1, 2):
        run = evaluating(
            tiny_bert, labelled, tmp_path / str(number), method=asked, epochs=1, forget_at_most=None, forgetting=False
        )
        assert finished(run, together=number) == 0
    for name in ("adapter/adapter_model.safetensors", "sources/adapter/adapter_model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_texts_that_are_drawn_are_written_by_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on what was drawn before, whichever process that was."""
    shape = SHAPES["llama"]
    monkeypatch.setattr(evaluated, "shared", None)
    torch.manual_seed(0)
    assert len(generate.generate(shape.model(), [[5, 6], [7]], [1], 0, 3, temperature=1.0)) == 2
    with pytest.raises(TypeError):
        generate.generate(shape.model(), [[5, 6], [7]], [1], 0, 3)
