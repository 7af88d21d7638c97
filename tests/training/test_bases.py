"""Bases and tokenizers that a run cannot use are refused before weights; those that are only unusual are used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from inlay.cli import main
from inlay.tasks.causal import Causal
from inlay.tasks.task import Task

from .. import towers
from ..tiny_models import reviews, write_rows

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
ROWS = 263  # of the byte tokenizer
ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama(folder: Path, tokenizer: Any, rows: int = ROWS) -> str:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, **ENDS, vocab_size=rows)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def answers(folder: Path, more: str = "") -> str:
    rows = [{"prompt": row["text"] + more, "completion": row["label"]} for row in reviews(40)]
    return write_rows(folder / "answers.jsonl", rows)


def labels(folder: Path, more: str = "") -> str:
    return write_rows(folder / "labels.jsonl", [row | {"text": row["text"] + more} for row in reviews(40)])


def train(base: str, data: str, out: Path, *more: str) -> int:
    texts = "0" if Path(data).stem == "labels" else "1"
    flags = ("--epochs", "0.5", "--samples", texts, "--max-length", "64", "--no-forgetting")
    return main(["train", base, data, "--out", str(out), *flags, *more])


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "load", None)


def with_word(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<new>"])


def with_special(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})


def with_padding(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"pad_token": "<new>"})


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("rows", [answers, labels])
@pytest.mark.parametrize("add", [with_word, with_special, with_padding])
def test_a_token_without_a_row_is_refused(
    add: Callable[[Any], None],
    rows: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = towers.byte_tokenizer()
    add(tokenizer)
    base = llama(tmp_path / "base", tokenizer)
    data = rows(tmp_path, " <new>" if add is with_special else "")
    assert train(base, data, tmp_path / "run") == 2
    assert f"<new> the number {ROWS}, and the embedding has rows for 0 to {ROWS - 1}" in capsys.readouterr().err
    if add is not with_special:
        assert main(["data", data, base]) == 2


@pytest.mark.usefixtures("no_weights")
def test_another_models_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = llama(tmp_path / "base", towers.byte_tokenizer(), rows=200)
    assert train(base, answers(tmp_path), tmp_path / "run") == 2
    assert "another model's tokenizer" in capsys.readouterr().err


def test_a_special_token_that_no_text_has_needs_no_row_until_one_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = towers.byte_tokenizer()
    with_special(tokenizer)
    base = llama(tmp_path / "base", tokenizer)
    assert train(base, answers(tmp_path), tmp_path / "run") == 0
    assert main(["predict", str(tmp_path / "run"), "a text", "--max-tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), "a text with <new>"]) == 2
    assert "the embedding has rows for" in capsys.readouterr().err


def test_more_rows_than_tokens_are_fine(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", towers.byte_tokenizer(), rows=320)
    assert train(base, answers(tmp_path), tmp_path / "run") == 0


def test_a_tokenizer_without_padding_is_used(tmp_path: Path) -> None:
    tokenizer = towers.byte_tokenizer()
    tokenizer.pad_token = None
    base = llama(tmp_path / "base", tokenizer)
    assert train(base, answers(tmp_path), tmp_path / "run") == 0


BERT: dict[str, Any] = SMALL | {"vocab_size": ROWS}
BART: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": ROWS} | {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in (("ffn_dim", 48), ("attention_heads", 4))
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("make", "rows", "message"),
    [
        (
            lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**BART)),
            answers,
            "is an encoder-d",
        ),
        (lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**BART)), labels, "does not end"),
        (lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT)), answers, "is an encoder, and"),
        (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)), answers, "of the kind vit"),
        (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)), labels, "no classifier of"),
    ],
)
def test_models_of_other_tasks_are_refused(
    make: Callable[[], Any],
    rows: Callable[[Path], str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = towers.save(make(), tmp_path / "base")
    assert train(base, rows(tmp_path), tmp_path / "run") == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("no_weights")
def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base").mkdir()
    config = {"model_type": "their-own", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "theirs.py").write_text("raise SystemExit('it was run')")
    assert train(str(tmp_path / "base"), answers(tmp_path), tmp_path / "run") == 2
    assert "comes with code of its own, which Inlay does not run" in capsys.readouterr().err


@pytest.mark.usefixtures("no_weights")
def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = llama(tmp_path / "base", towers.byte_tokenizer())
    for path in (tmp_path / "base").glob("tokenizer*"):
        path.unlink()
    assert train(base, answers(tmp_path), tmp_path / "run") == 2
    assert "a tokenizer that cannot be read" in capsys.readouterr().err


def test_a_model_that_cannot_generate_keeps_what_it_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("this cache has no such method")

    base = llama(tmp_path / "base", towers.byte_tokenizer())
    with monkeypatch.context() as patch:
        patch.setattr(Causal, "_written", fail)
        assert train(base, answers(tmp_path), tmp_path / "run") == 0
    assert "generating failed: this cache has no such method" in (tmp_path / "run" / "log.txt").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["tuned"]["loss"] > 0
    assert main(["predict", str(tmp_path / "run"), "a text", "--max-tokens", "2"]) == 0


def test_a_run_that_ends_in_a_bug_says_so_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AttributeError("something that nobody thought of")

    base = llama(tmp_path / "base", towers.byte_tokenizer())
    monkeypatch.setattr(Causal, "write_predictions", fail)
    assert train(base, answers(tmp_path), tmp_path / "run") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "AttributeError: something that nobody thought of; the adapter of step" in summary["reason"]
    assert (tmp_path / "run" / "adapter" / "tokenizer.json").is_file()
