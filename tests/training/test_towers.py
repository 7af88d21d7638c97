"""Bases that read pictures beside texts: rows of texts train their language model, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay
from inlay.cli import main
from inlay.tasks.task import Task

from .. import towers
from ..tiny_models import reviews, write_rows

SMALL = {
    "houlsby": ["--method.size", "8"],
    "last-layers": ["--method.layers", "1"],
    "pfeiffer": ["--method.reduction-factor", "2"],
    "multitask-prompt": ["--method.tokens", "3"],
    "p-tuning": ["--method.tokens", "3", "--method.hidden-size", "8"],
    "prefix": ["--method.tokens", "3"],
    "prompt": ["--method.tokens", "3"],
    "bitfit": ["--method.add-missing"],
    "pattern": ["--method.include", r".*\.1\..*"],
}
CHANGE_WEIGHTS = {"full", "norm", "last-layers", "pattern", "sparse", "lora", "dora", "adalora", "dynamic-rank"}
CHANGE_WEIGHTS |= {"loha", "lokr", "vera", "oft", "ia3"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"prompt": row["text"], "completion": row["label"][:3] + " good"} for row in reviews(40)]
    return write_rows(tmp_path_factory.mktemp("answers") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return towers.save(towers.gemma3(), tmp_path_factory.mktemp("gemma3"))


def trained(base: str, data: str, method: str, out: Path, *more: str) -> Path:
    flags = ["--epochs", "0.5", "--samples", "0", "--no-forgetting", *SMALL.get(method, ())]
    assert main(["train", base, data, "--method", method, "--out", str(out), *flags, *more]) == 0
    return out


def tensors(run: Path) -> set[str]:
    return set(load_file(run / "adapter" / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in ("lora", "full", "bitfit", "houlsby") else pytest.mark.slow)
        for name in inlay.METHODS
    ],
)
def test_the_language_model_is_trained_and_used(method: str, gemma3: str, answers: str, tmp_path: Path) -> None:
    run = trained(gemma3, answers, method, tmp_path / "run")
    assert not any("vision" in name or "projector" in name for name in tensors(run))
    said = "model.vision_tower and model.multi_modal_projector stay as they are"
    assert said in (run / "log.txt").read_text()
    assert "# part: model.language_model; the rows are texts" in (run / "resolved.yaml").read_text()
    assert main(["eval", str(run), "--samples", "1"]) == 0
    assert main(["predict", str(run), "the film", "--max-tokens", "3"]) == 0
    assert main(["merge", str(run), str(tmp_path / "merged")]) == (0 if method in CHANGE_WEIGHTS else 2)
    if method in CHANGE_WEIGHTS:
        before, after = (load_file(Path(folder) / "model.safetensors") for folder in (gemma3, tmp_path / "merged"))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert all("language_model" in name or "lm_head" in name for name in changed)


def test_a_target_in_another_tower_is_refused(
    gemma3: str, answers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "load", None)
    target = "vision_tower.encoder.layers.0.self_attn.q_proj"
    assert main(["train", gemma3, answers, "--method.targets", target, "--out", str(tmp_path / "run")]) == 2
    assert "lies outside model.language_model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_room_for_texts_is_that_of_the_language_model(
    gemma3: str, answers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", gemma3, answers, "--max-length", "72", "--out", str(tmp_path / "run")]) == 2
    assert "room for 64 tokens" in capsys.readouterr().err


def test_a_classifier_is_kept_to_the_language_model_and_its_head(gemma3: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(40))
    run = trained(gemma3, data, "lora", tmp_path / "run")
    names = tensors(run)
    assert any(name.endswith("score.weight") for name in names)
    assert not any("vision" in name or "projector" in name for name in names)
    assert main(["predict", str(run), "the film was good"]) == 0


@pytest.mark.parametrize("make", [towers.qwen2_5_vl, towers.qwen3_5])
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_models_with_and_without_a_class_for_texts(
    make: Callable[[], Any], method: str, answers: str, tmp_path: Path
) -> None:
    base = towers.save(make(), tmp_path / "base")
    run = trained(base, answers, method, tmp_path / "run")
    assert not any("visual" in name for name in tensors(run))
    kept = "the language model of the qwen3_5 checkpoint is loaded" if make is towers.qwen3_5 else "stay as they are"
    assert kept in (run / "log.txt").read_text()
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
    assert main(["predict", str(run), "the film", "--max-tokens", "3"]) == 0


def test_labels_for_a_model_without_a_classifier_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = towers.save(towers.qwen2_5_vl(), tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", reviews(40))
    assert main(["train", base, data, "--out", str(tmp_path / "run"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "no classifier of texts for a model of the kind qwen2_5_vl" in told["text"]
    assert "write the labels as texts" in told["text"]
