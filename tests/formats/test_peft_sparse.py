"""Sparse training in PEFT's format (SHIRA), both ways, where each weight has as many entries as PEFT wants."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay
from inlay.formats import peft as format_

from ..shapes import SHAPES, disturb, logits
from .both_ways import trained_by_peft, we_agree_with_peft_files
from .matrix import builds
from .test_peft import both_equal, inputs
from .test_refusals import edit_config, edit_tensors

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

readable = builds("llama", "bert", "t5")  # PEFT's SHiRA has no place for GPT-2's transposed layers


@pytest.mark.parametrize("seed", [None, 5])
@readable
def test_we_compute_the_same_from_peft_files(seed: int | None, shape: Any, build: Any, tmp_path: Path) -> None:
    _, adapter = we_agree_with_peft_files(shape, build, peft.ShiraConfig, tmp_path, r=2, random_seed=seed)
    assert adapter.method.rank == 2  # type: ignore[attr-defined]


def test_the_entries_are_those_of_the_file_and_not_those_of_the_seed(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    theirs = trained_by_peft(shape, shape.model, peft.ShiraConfig, tmp_path, r=2, random_seed=5)
    edit_config(tmp_path, random_seed=6)
    model = shape.model()
    adapter = inlay.load(model, tmp_path)
    both_equal(model, theirs, inputs(shape, model))
    name = "model.layers.0.self_attn.q_proj"
    saved = load_file(tmp_path / format_.TENSORS)[f"base_model.model.{name}.shira_indices"]
    assert torch.equal(adapter.deltas[name].indices, saved)


def test_indices_that_windows_wrote_as_floats_are_read(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.SparseMask(selection="random"))
    disturb(adapter)
    adapter.save(tmp_path)
    edit_tensors(tmp_path, lambda ts: ts.update({k: t.float() for k, t in ts.items() if k.endswith("indices")}))
    again = shape.model()
    inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))


def test_it_is_written_in_a_format_of_its_own_for_load_adapter_takes_other_entries(tmp_path: Path) -> None:
    adapter = inlay.attach(SHAPES["gpt2"].model(), inlay.SparseMask(selection="random"))
    adapter.save(tmp_path / "transposed")
    uneven = inlay.attach(SHAPES["llama"].model(), inlay.SparseMask(selection="random"))
    uneven.deltas["model.layers.0.mlp.up_proj"].choose(torch.arange(5))  # type: ignore[operator]
    uneven.save(tmp_path / "uneven")
    even = inlay.attach(SHAPES["llama"].model(), inlay.SparseMask(selection="random"))
    even.save(tmp_path / "even")
    for folder in ("transposed", "uneven", "even"):
        assert json.loads((tmp_path / folder / format_.CONFIG).read_text())["peft_type"] == "INLAY_SPARSE"
    loaded = inlay.load(SHAPES["llama"].model(), tmp_path / "uneven")
    assert len(loaded.deltas["model.layers.0.mlp.up_proj"].values) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": 2}, "scaling is 2; this changes what the adapter computes and is not known"),
        ({"r": 5}, r"has shape \(2, 320\), its place \(2, 400\)"),
        ({"r": ...}, "r is missing"),
        ({"r": 0}, "a setting has a value that it cannot have: method.rank is 0"),
        ({"r": 60}, "does not fit LlamaForCausalLM: method.rank is 60"),
    ],
)
def test_a_config_that_means_something_else_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    trained_by_peft(SHAPES["llama"], SHAPES["llama"].model, peft.ShiraConfig, tmp_path, r=4)
    edit_config(tmp_path, **changes)
    with pytest.raises(inlay.errors.CheckpointError, match=message):
        inlay.load(SHAPES["llama"].model(), tmp_path)


def test_missing_indices_are_refused(tmp_path: Path) -> None:
    trained_by_peft(SHAPES["llama"], SHAPES["llama"].model, peft.ShiraConfig, tmp_path, r=4)
    key = "base_model.model.model.layers.0.mlp.down_proj.shira_indices"
    edit_tensors(tmp_path, lambda tensors: tensors.pop(key))
    with pytest.raises(inlay.errors.CheckpointError, match=r"down_proj\.indices is missing"):
        inlay.load(SHAPES["llama"].model(), tmp_path)
