"""VeRA in Hugging Face PEFT, both ways, with the shared matrices in the file and without."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..edited import unseal
from ..shapes import SHAPES, Shape
from .both_ways import PAIRS, peft_agrees_with_our_files, trained_by_peft, we_agree_with_peft_files
from .matrix import variants_and_builds

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about matrices that are not saved

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 6},
    "seed": {"r": 4, "projection_prng_key": 7, "d_initial": 0.3, "vera_dropout": 0.2},
    "unsaved": {"r": 40, "projection_prng_key": 3, "save_projection": False},
}
NAMES = {"r": "rank", "projection_prng_key": "seed", "vera_dropout": "dropout"}


@variants_and_builds(VARIANTS)
def test_both_compute_the_same_from_both_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    settings = {NAMES.get(key, key): value for key, value in VARIANTS[variant].items()}
    method = inlay.VeRA(targets=PAIRS[shape.name], **settings)
    peft_agrees_with_our_files(shape, build, method, tmp_path / "first")
    _, adapter = we_agree_with_peft_files(shape, build, peft.VeraConfig, tmp_path, **VARIANTS[variant])
    for name, value in settings.items():
        assert getattr(adapter.method, name) == value
    saved = [key for key in load_file(tmp_path / "first" / format_.TENSORS) if "vera_A" in key or "vera_B" in key]
    assert sorted(saved) == (["base_model.vera_A", "base_model.vera_B"] if variant != "unsaved" else [])


def edit(folder: Path, **changes: Any) -> None:
    path = folder / format_.CONFIG
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_whose_matrices_are_missing_surplus_or_of_another_size_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    trained_by_peft(shape, shape.model, peft.VeraConfig, tmp_path, r=4)
    tensors = load_file(tmp_path / format_.TENSORS)
    edit(tmp_path, save_projection=False)
    with pytest.raises(CheckpointError, match=r"base_model\.vera_A has no place"):
        inlay.load(shape.model(), tmp_path)
    edit(tmp_path, save_projection=True)
    inlay.load(shape.model(), tmp_path)
    unseal(tmp_path)
    save_file(tensors | {"base_model.vera_A": torch.zeros(4, 40)}, tmp_path / format_.TENSORS)
    with pytest.raises(CheckpointError, match=r"vera_A has shape \(4, 40\), its place \(4, 32\)"):
        inlay.load(shape.model(), tmp_path)
    save_file({k: t for k, t in tensors.items() if k != "base_model.vera_B"}, tmp_path / format_.TENSORS)
    with pytest.raises(CheckpointError, match=r"vera_B is missing"):
        inlay.load(shape.model(), tmp_path)


def test_trained_biases_are_refused(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    trained_by_peft(shape, shape.model, peft.VeraConfig, tmp_path, r=4)
    edit(tmp_path, bias="vera_only")
    with pytest.raises(CheckpointError, match="bias is 'vera_only'; this changes what the adapter computes"):
        inlay.load(shape.model(), tmp_path)
