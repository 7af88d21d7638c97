"""Adapters that PEFT makes over its methods and settings are read as PEFT computes them, or refused by name."""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay

from ..edited import unseal
from ..shapes import SHAPES, disturb, logits
from .test_refusals import edit_config

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
MADE = runpy.run_path(str(SCRIPTS / "peft_files.py"))
CASES = {case.name: case for case in MADE["cases"]()}
WRITTEN = {case.name: case for case in MADE["written"]()}
SAMPLE = (
    "LORA tokens llama-tied",
    "LORA tokens, dora llama",
    "LORA resized, saved llama-resized",
    "LORA embeddings in the file llama-tied",
    "LORA tied weights llama-tied",
    "LORA all biases gpt2",
    "LORA all biases bert-classifier",
    "LORA biases of its layers bert-classifier",
    "LORA bias of B, patterns gpt2",
    "LORA start pissa, patterns llama",
    "LORA start olora, rslora llama",
    "LORA start pissa by iteration llama",
    "LORA saved whole: norms llama",
    "LORA a pattern that fits nothing llama",
    "LORA replicated layers llama",
    "LORA expert parameters mixtral",
    "ADALORA a target above the start llama",
    "LOKR a pattern that fits nothing llama",
    "PREFIX_TUNING plain llava",
    "BOFT plain llama",
)
SAMPLE_WRITTEN = ("p-tuning as by default llava", "lora as by default mixtral", "dora tokens llama")


@pytest.mark.parametrize("name", SAMPLE)
def test_what_peft_made_is_equal_or_refused_by_name(name: str, tmp_path: Path) -> None:
    outcome = MADE["run"](CASES[name], tmp_path)
    assert outcome.kind in ("equal", "refused"), outcome


@pytest.mark.parametrize("name", SAMPLE_WRITTEN)
def test_what_inlay_made_is_equal_in_peft(name: str, tmp_path: Path) -> None:
    outcome = MADE["give"](WRITTEN[name], tmp_path)
    assert outcome.kind == "equal", outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_all_that_peft_made_is_equal_or_refused_by_name(name: str, tmp_path: Path) -> None:
    outcome = MADE["run"](CASES[name], tmp_path)
    assert outcome.kind != "wrong", outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_all_that_inlay_made_is_equal_in_peft_or_refused(name: str, tmp_path: Path) -> None:
    outcome = MADE["give"](WRITTEN[name], tmp_path)
    assert outcome.kind != "wrong", outcome


def saved(folder: Path, method: Any, shape: str = "llama") -> Any:
    model = SHAPES[shape].model()
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(folder)
    return logits(model, SHAPES[shape])


@pytest.mark.parametrize("name", ["lora", "dora", "adalora", "ia3", "norm", "loha", "lokr", "oft", "dynamic-rank"])
def test_load_adapter_of_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    expected = saved(tmp_path, inlay.METHODS[name]())
    other = SHAPES["llama"].model()
    other.load_adapter(str(tmp_path))
    assert torch.allclose(logits(other, SHAPES["llama"]), expected, atol=1e-5, rtol=1e-5)


def test_a_file_that_torch_wrote_is_read_and_runs_no_code(tmp_path: Path) -> None:
    expected = saved(tmp_path, inlay.LoRA(rank=2))
    safe = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(safe), tmp_path / "adapter_model.bin")
    safe.unlink()
    model = SHAPES["llama"].model()
    inlay.load(model, tmp_path)
    assert torch.equal(logits(model, SHAPES["llama"]), expected)

    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"a": Harm()}, tmp_path / "adapter_model.bin")
    with pytest.raises(inlay.errors.CheckpointError, match=r"adapter_model\.bin.*have its maker save"):
        inlay.load(SHAPES["llama"].model(), tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_key_of_a_newer_peft_is_read_where_it_says_nothing(tmp_path: Path) -> None:
    expected = saved(tmp_path, inlay.LoRA(rank=2))
    edit_config(tmp_path, new_list=[], new_switch=False, new_text=None, qalora_group_size=16)
    model = SHAPES["llama"].model()
    inlay.load(model, tmp_path)
    assert torch.equal(logits(model, SHAPES["llama"]), expected)
    edit_config(tmp_path, new_switch=True)
    with pytest.raises(inlay.errors.CheckpointError, match="new_switch is True"):
        inlay.load(SHAPES["llama"].model(), tmp_path)


def test_targets_of_null_are_refused_with_what_to_write(tmp_path: Path) -> None:
    saved(tmp_path, inlay.LoRA(rank=2))
    edit_config(tmp_path, target_modules=None)
    with pytest.raises(inlay.errors.CheckpointError, match="target_modules is null"):
        inlay.load(SHAPES["llama"].model(), tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("llava", "base_model.model.model.language_model.", "base_model.model.language_model.model."),
        ("qwen2-vl", "base_model.model.model.language_model.", "base_model.model.model."),
    ],
)
def test_names_of_transformers_4_are_those_of_today(name: str, old: str, new: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    build, output = MADE["build"], MADE["output"]
    model = build(name)
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=(r".*language_model.*\.(q_proj|v_proj)",)))
    disturb(adapter)
    adapter.save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    older = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    assert older.keys() != tensors.keys()
    unseal(tmp_path)
    save_file(older, tmp_path / "adapter_model.safetensors")
    edit_config(tmp_path, target_modules=["q_proj", "v_proj"])
    again = build(name)
    inlay.load(again, tmp_path)
    assert torch.equal(output(again, name), output(model, name))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ["q_proj", "v_proj"]
