"""What a model with adapters writes by itself, and the names of its labels."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import inlay
from inlay.errors import CheckpointError, SettingsError

from ..shapes import LABELS, SHAPES, disturb, logits, method

LLAMA, GPT2, BERT = SHAPES["llama"], SHAPES["gpt2"], SHAPES["bert"]


def attached(name: str, shape: Any = LLAMA, as_name: str = "default", model: Any = None) -> tuple[Any, inlay.Adapter]:
    model = shape.model() if model is None else model
    adapter = inlay.attach(model, method(name, shape), as_name)
    disturb(adapter)
    return model, adapter


@pytest.mark.parametrize("name", ["lora", "prompt", "houlsby", "bitfit"])
@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])  # whose head is its embedding
def test_a_model_that_saves_itself_keeps_its_adapter(
    name: str, shape: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, adapter = attached(name, shape)
    y = logits(model, shape)
    with caplog.at_level(logging.WARNING, "inlay"):
        model.save_pretrained(tmp_path / "saved")
        model.save_pretrained(tmp_path / "saved")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "inlay"]
    assert "from_pretrained reads the base alone, without adapter 'default'" in said
    assert f'inlay.load(model, "{tmp_path / "saved" / "adapters" / "default"}")' in said
    assert ("merge_and_detach" in said) == (name in ("lora", "bitfit"))
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    with inlay.using(model):
        assert torch.equal(logits(again, shape), logits(model, shape))
    inlay.load(again, tmp_path / "saved")
    assert torch.equal(logits(again, shape), y)
    adapter.save(tmp_path / "apart")
    for path in (tmp_path / "apart").iterdir():
        assert path.read_bytes() == (tmp_path / "saved" / "adapters" / "default" / path.name).read_bytes()


def test_of_several_adapters_each_is_kept_and_one_has_to_be_named(tmp_path: Path) -> None:
    model, _ = attached("lora", as_name="a")
    attached("prompt", as_name="b", model=model)
    expected = {}
    for name in ("a", "b"):
        with inlay.using(model, name):
            expected[name] = logits(model, LLAMA)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with pytest.raises(CheckpointError, match=r"several adapters; name one: .*adapters/a, .*adapters/b"):
        inlay.load(again, tmp_path)
    for name, y in expected.items():
        inlay.load(again, tmp_path / "adapters" / name, name)
        assert torch.equal(logits(again, LLAMA), y)


def test_what_is_in_the_weights_is_not_written_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, adapter = attached("lora")
    adapter.merge()
    model.save_pretrained(tmp_path / "merged")
    adapter.unmerge()
    adapter.detach()
    assert "save_pretrained" not in model.__dict__
    model.save_pretrained(tmp_path / "detached")
    trained, _ = attached("full")
    trained.save_pretrained(tmp_path / "full")
    for folder in tmp_path.iterdir():
        assert not (folder / "adapters").exists()
        assert not any("adapters" in key for key in load_file(folder / "model.safetensors"))
    assert not [record for record in caplog.records if record.name == "inlay"]


def test_beside_a_merged_adapter_the_other_one_is_written(tmp_path: Path) -> None:
    model, a = attached("lora", as_name="a")
    attached("lora", as_name="b", model=model)
    a.merge()
    model.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["b"]
    again = type(model).from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="trained on a base model with fingerprint"):
        inlay.load(again, tmp_path)


def test_a_process_that_writes_nothing_writes_no_adapter(tmp_path: Path) -> None:
    model, _ = attached("lora")
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "adapters").exists()


def test_a_copy_writes_its_own_adapter(tmp_path: Path) -> None:
    model, _ = attached("lora")
    twin = copy.deepcopy(model)
    disturb(inlay.adapters(twin)["default"])
    twin.save_pretrained(tmp_path)
    again = LLAMA.model()
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, LLAMA), logits(twin, LLAMA))


def test_a_state_dict_is_that_of_the_model_with_its_adapters(tmp_path: Path) -> None:
    model, adapter = attached("lora")
    y = logits(model, LLAMA)
    torch.save(model.state_dict(), tmp_path / "model.bin")
    state = torch.load(tmp_path / "model.bin", weights_only=True)
    same = LLAMA.model()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*adapters\.default"):
        same.load_state_dict(state)
    inlay.attach(same, adapter.method)
    same.load_state_dict(state)
    assert torch.equal(logits(same, LLAMA), y)


NAMES = tuple(f"topic {number}" for number in range(LABELS))


def classifier(names: tuple[str, ...] = ()) -> Any:
    config = copy.deepcopy(BERT.config)
    if names:
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


def names_of(model: Any) -> tuple[str, ...]:
    assert model.config.label2id == {name: i for i, name in model.config.id2label.items()}
    return tuple(model.config.id2label.values())


def test_labels_keep_their_names_from_one_model_to_another(tmp_path: Path) -> None:
    named = classifier(NAMES)
    inlay.attach(named, inlay.LoRA(rank=2)).save(tmp_path / "adapter")
    model = classifier()
    unnamed = names_of(model)
    adapter = inlay.load(model, tmp_path / "adapter")
    assert names_of(model) == NAMES
    adapter.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "provenance.json").read_text())["labels"] == list(NAMES)
    adapter.detach()
    assert names_of(model) == unnamed
    inlay.load(model, tmp_path / "again").merge_and_detach().save_pretrained(tmp_path / "plain")
    assert names_of(type(model).from_pretrained(tmp_path / "plain")) == NAMES


def test_names_that_a_model_has_stay_and_those_of_two_adapters_have_to_agree(tmp_path: Path) -> None:
    others = tuple(f"intent {number}" for number in range(LABELS))
    inlay.attach(classifier(NAMES), inlay.LoRA(rank=2)).save(tmp_path / "a")
    inlay.attach(classifier(others), inlay.LoRA(rank=2)).save(tmp_path / "b")
    inlay.attach(classifier(), inlay.LoRA(rank=2)).save(tmp_path / "none")
    assert "labels" not in json.loads((tmp_path / "none" / "provenance.json").read_text())
    own = classifier(others)
    inlay.load(own, tmp_path / "a").detach()
    assert names_of(own) == others
    model = classifier()
    unnamed = names_of(model)
    inlay.load(model, tmp_path / "none", "none")
    assert names_of(model) == unnamed
    inlay.load(model, tmp_path / "a", "a")
    assert names_of(model) == NAMES
    b = inlay.load(model, tmp_path / "b", "b")
    assert names_of(model) == unnamed  # neither's, as the model cannot say whose they are
    assert (inlay.adapters(model)["a"].labels, b.labels) == (NAMES, others)
    b.detach()
    assert names_of(model) == NAMES


def test_an_adapter_for_another_class_of_model_says_so(tmp_path: Path) -> None:
    inlay.attach(classifier(), inlay.LoRA(rank=2)).save(tmp_path)
    body = transformers.BertModel(BERT.config)
    with pytest.raises(CheckpointError, match=r"another class of model than BertModel.*task_type is SEQ_CLS"):
        inlay.load(body, tmp_path)
    assert inlay.adapters(body) == {}


def test_what_would_be_uploaded_without_its_adapters_is_refused(tmp_path: Path) -> None:
    model, _ = attached("lora")
    with pytest.raises(SettingsError, match="would upload the model without its adapters.* hf upload NAME FOLDER"):
        model.save_pretrained(tmp_path / "saved", push_to_hub=True)
    assert not (tmp_path / "saved").exists()
