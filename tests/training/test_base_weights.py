"""A base whose files lack weights, or have others than its config.json says, is refused by name; a new head is said."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from inlay.cli import main

from ..shapes import SHAPES
from ..tiny_models import reviews, save_tiny_model, word_tokenizer, write_rows

QUERY = "encoder.layer.1.attention.self.query.weight"


def edit(base: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = Path(base) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata={"format": "pt"})


def train(base: str, folder: Path) -> int:
    rows = write_rows(folder / "rows.jsonl", reviews(40))
    flags = ["--method", "bitfit", "--epochs", "0.5", "--no-forgetting", "--out", str(folder / "run")]
    return main(["train", base, rows, *flags])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t.pop(k) for k in list(t) if ".layer.1." in k], "has no weights for bert.encoder.layer.1."),
        (lambda t: t.pop("embeddings.LayerNorm.bias"), "has no weights for bert.embeddings.LayerNorm.bias"),
        (lambda t: t.update({QUERY: torch.zeros(3, 32)}), r"query.weight as 3 x 32, .* config.json has 32 x 32"),
        (lambda t: t.update({QUERY.replace("1", "2"): t[QUERY]}), "has weights for encoder.layer.2, for which"),
    ],
    ids=["layer", "bias", "shape", "surplus layer"],
)
def test_a_base_that_is_not_whole_is_refused_before_anything_is_written(
    change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["bert"], tmp_path / "base")
    edit(base, change)
    assert train(base, tmp_path) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_with_numbers_that_are_none_is_refused(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["bert"], tmp_path / "base")
    edit(base, lambda tensors: tensors[QUERY].view(-1)[7].fill_(value))
    assert train(base, tmp_path) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "layer.1.attention.self.query.weight that are not finite; its files are damaged" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_nan_in_a_bases_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(base := save_tiny_model(SHAPES["bert"], tmp_path / "base")) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classifier_dropout": float("nan")}))
    assert train(base, tmp_path) == 2
    assert "has NaN for classifier_dropout in its config.json" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("part", ["single", "pair"])
def test_types_of_a_text_without_a_row_are_refused(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(base := save_tiny_model(SHAPES["bert"], tmp_path / "base")) / "tokenizer.json"
    told = json.loads(path.read_text())
    told["post_processor"][part][1]["Sequence"]["type_id"] = 2
    path.write_text(json.dumps(told))
    assert train(base, tmp_path) == 2
    assert "the type 2, and the model has rows for 2 types" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("count", [None, 5])
def test_a_new_head_is_said(count: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_tiny_model(SHAPES["bert"], tmp_path / "base")
    if count is not None:
        config = transformers.AutoConfig.from_pretrained(base, num_labels=count)
        transformers.BertForSequenceClassification(config).save_pretrained(base)
    assert train(base, tmp_path) == 0
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "classifier of BertForSequenceClassification is new and drawn at random" in said
    assert ("the one in the files is for 5 labels, and here there are 2" in said) == (count is not None)


def test_a_pooler_that_a_masked_language_model_lacks_is_new_too(tmp_path: Path) -> None:
    config = SHAPES["bert"].classifier().config
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    word_tokenizer(for_bert=True).save_pretrained(tmp_path / "base")
    assert train(str(tmp_path / "base"), tmp_path) == 0
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "bert.pooler and classifier of" in said
    assert "not used of the files" in said
    assert main(["predict", str(tmp_path / "run"), "the film"]) == 0


def test_layers_that_only_the_configuration_has_are_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["bert"], tmp_path / "base")
    path = Path(base) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1_000_000}))
    assert train(base, tmp_path) == 2
    assert "has 1000000 layers by its config.json" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["max_position_embeddings", "type_vocab_size", "vocab_size", "intermediate_size"])
def test_a_size_beyond_the_files_is_refused_before_anything_is_made(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["bert"], tmp_path / "base")
    path = Path(base) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 2**31}))
    assert train(base, tmp_path) == 2
    assert f"has {key} {2**31} in its config.json, far beyond what its files hold" in capsys.readouterr().err
