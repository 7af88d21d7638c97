"""The verbs on folders that no run has made: what adapter.save and Hugging Face PEFT write."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import inlay
from inlay.cli import main
from inlay.tasks.task import Task

from .. import towers
from ..edited import unseal
from ..tiny_models import WORDS, reviews, word_tokenizer, write_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own, about transformers' deprecations

LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 272,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(folder: Path, cls: Any = transformers.LlamaForCausalLM, **more: Any) -> Any:
    """Written to the folder without a tokenizer, and loaded again."""
    torch.manual_seed(0)
    cls(transformers.LlamaConfig(**LLAMA | more)).save_pretrained(folder)
    return cls.from_pretrained(folder).eval()


def moved(adapter: inlay.Adapter, folder: Path) -> inlay.Adapter:
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    adapter.save(folder)
    return adapter


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and an adapter that adapter.save wrote, in `base` and `adapter`; no tokenizer is anywhere."""
    folder = tmp_path_factory.mktemp("saved")
    moved(inlay.attach(llama(folder / "base"), inlay.LoRA(rank=2)), folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def of_peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of named labels with a word tokenizer, and PEFT's adapter for it."""
    folder = tmp_path_factory.mktemp("of-peft")
    names: dict[str, Any] = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    base = llama(folder / "base", transformers.LlamaForSequenceClassification, **names)
    word_tokenizer().save_pretrained(folder / "base")
    config: Any = peft.LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(folder / "adapter")
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "load", None)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_merge_needs_neither_a_run_nor_a_tokenizer(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(saved / "adapter"), str(tmp_path / "merged")]) == 0
    assert "does not say how it was trained, so it is assumed that" in capsys.readouterr().out
    tuned = transformers.LlamaForCausalLM.from_pretrained(saved / "base").eval()
    inlay.load(tuned, saved / "adapter")
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, atol=1e-5, rtol=0)


def test_rank_goes_without_data(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", str(saved / "adapter"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["layers"]) == 7
    assert result["curve"] is None
    assert any("name some with --data" in note for note in result["notes"])


@pytest.mark.usefixtures("no_weights")
def test_what_cannot_be_assumed_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name the data to evaluate on" in refused(["eval", str(saved / "adapter")], capsys)
    assert "no tokenizer can be read" in refused(["predict", str(saved / "adapter"), "the film"], capsys)


def test_a_language_model_answers_by_the_tokenizer_beside_its_adapter(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    towers.byte_tokenizer().save_pretrained(tmp_path / "adapter")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "adapter"), "abc", "--max-tokens", "3", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["prompt"] == "abc"
    assert "ends at </s>" in told.err


def test_a_classifier_of_peft_gives_its_probabilities_and_the_labels_of_its_base(
    of_peft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(WORDS[:5])
    assert main(["predict", str(of_peft / "adapter"), text, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["probabilities"]
    base = transformers.LlamaForSequenceClassification.from_pretrained(of_peft / "base")
    theirs = peft.PeftModel.from_pretrained(base, of_peft / "adapter").eval()
    row = word_tokenizer()(text, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**row).logits.softmax(-1)[0]
    torch.testing.assert_close(
        torch.tensor([found["negative"], found["positive"]]), expected.float(), atol=1e-5, rtol=0
    )
    data = write_rows(tmp_path / "rows.jsonl", reviews(40))
    assert main(["eval", str(of_peft / "adapter"), data]) == 0
    assert main(["predict", str(of_peft / "adapter"), data]) == 0
    assert main(["merge", str(of_peft / "adapter"), str(tmp_path / "merged")]) == 0


def test_labels_without_names_are_numbered_as_the_head_has_them(
    of_peft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = llama(tmp_path / "base", transformers.LlamaForSequenceClassification, num_labels=3)
    word_tokenizer().save_pretrained(tmp_path / "base")
    moved(inlay.attach(base, inlay.LoRA(rank=2)), tmp_path / "adapter")
    assert main(["predict", str(tmp_path / "adapter"), "the film", "--json"]) == 0
    told = capsys.readouterr()
    assert set(json.loads(told.out)["probabilities"]) == {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert "as nothing names the 3 of its head" in told.err
    numbered = [row | {"label": i % 3} for i, row in enumerate(reviews(60))]
    assert main(["eval", str(tmp_path / "adapter"), write_rows(tmp_path / "numbered.jsonl", numbered)]) == 0
    named = write_rows(tmp_path / "named.jsonl", reviews(60))
    assert "write them as 0 to 2" in refused(["eval", str(tmp_path / "adapter"), named], capsys)


@pytest.mark.usefixtures("no_weights", "no_network")
@pytest.mark.parametrize("verb", ["predict", "eval", "rank", "merge"])
@pytest.mark.parametrize("named", ["someone/elses-model", "folder/that/is/not/here", None])
def test_a_base_that_only_the_files_name_is_not_fetched(
    verb: str,
    named: str | None,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
    more = {"predict": ["a text"], "merge": [str(tmp_path / "merged")]}.get(verb, [])
    assert "name it with --model" in refused([verb, str(tmp_path / "adapter"), *more], capsys)


def test_a_base_that_is_named_beside_is_taken(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "elsewhere"}))
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged"), "--model", str(saved / "base")]) == 0


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("verb", ["predict", "rank", "merge"])
def test_numbers_that_are_none_are_refused(
    verb: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, :2] = float("nan")
    unseal(path.parent)
    save_file(tensors, path, metadata={"format": "pt"})
    more = {"predict": ["a text"], "merge": [str(tmp_path / "merged")]}.get(verb, [])
    assert "2 of the 96 numbers of" in refused([verb, str(tmp_path / "adapter"), *more], capsys)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [("SEQ_2_SEQ_LM", "is for the task SEQ_2_SEQ_LM"), ("SEQ_CLS", "has a head that was trained")],
)
@pytest.mark.usefixtures("no_weights")
def test_a_task_that_the_files_do_not_bear_out_is_refused(
    task: str, message: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": task}))
    assert message in refused(["predict", str(tmp_path / "adapter"), "a text"], capsys)


def test_weights_that_nobody_has_are_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A masked language model has no pooler, and PEFT saves none beside a classifier's head."""
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=50
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    word_tokenizer(for_bert=True).save_pretrained(tmp_path / "base")
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS")).save_pretrained(tmp_path / "adapter")
    assert "bert.pooler" in refused(["predict", str(tmp_path / "adapter"), "the film"], capsys)
