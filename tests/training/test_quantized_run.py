"""Runs on a base in NF4: what `--quantize nf4` and `--method qlora` do from the command line to a new process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inlay.cli import main
from inlay.inference.opened import open_adapter

pytest.importorskip("bitsandbytes")

SHORT = ["--epochs", "4", "--learning-rate", "5e-3", "--dtype", "float32"]


@pytest.fixture(scope="module")
def run(tiny_bert: str, reviews_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qlora") / "run"
    assert main(["train", tiny_bert, reviews_folder, "--method", "qlora", *SHORT, "--out", str(out)]) == 0
    return out


def linears(model: Any) -> set[str]:
    return {type(m).__name__ for m in model.modules() if hasattr(m, "in_features")}


def test_qlora_is_lora_on_a_quantized_base(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["method"], summary["quantize"]) == ("lora", "nf4")
    assert summary["metrics"]["tuned"]["loss"] < summary["metrics"]["base"]["loss"]
    opened = open_adapter(run)
    assert linears(opened.adapter.model) == {"Linear4bit", "Linear"}
    assert isinstance(opened.adapter.model.classifier, torch.nn.Linear)
    assert type(opened.adapter.model.classifier) is torch.nn.Linear


def test_a_new_process_scores_as_the_run_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert found["tuned"] == pytest.approx(metrics["tuned"], rel=1e-6)
    assert found["base"] == pytest.approx(metrics["base"], rel=1e-6)


def test_the_settings_may_stand_in_a_file(run: Path, tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    text = (
        f"model: {tiny_bert}\ndata: {reviews_folder}\nmethod: qlora\nepochs: 4\nlearning_rate: 5e-3\ndtype: float32\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "again")]) == 0
    first, again = (json.loads((folder / "summary.json").read_text()) for folder in (run, tmp_path / "again"))
    assert first["metrics"] == again["metrics"]
    assert "nf4" in (tmp_path / "again" / "resolved.yaml").read_text()


@pytest.mark.parametrize("method", ["full", "last-layers"])
def test_what_trains_packed_weights_is_refused_before_anything_is_written(
    method: str, tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "train",
        tiny_bert,
        reviews_folder,
        "--method",
        method,
        "--quantize",
        "nf4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*asked, *(["--method.layers", "1"] if method == "last-layers" else [])]) == 2
    assert "quantized" in (said := capsys.readouterr().err) or "packed" in said
    assert not (tmp_path / "run").exists()
