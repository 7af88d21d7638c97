"""The projection that a prefix was trained by, kept beside the prefix in files."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb
from .kept_source import check_training_goes_on

P = 5


def trained(shape: Shape, folder: Path, scale: float = 0.5) -> tuple[nn.Module, Any]:
    model = shape.model()
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P, projection=True, hidden_size=12))
    disturb(adapter, scale)
    adapter.save(folder)
    return model, adapter


def test_training_goes_on_from_the_projection_that_is_kept_beside_its_result(shape: Shape, tmp_path: Path) -> None:
    """PEFT bug 8: it keeps the result alone, and cannot load that for training."""
    model, adapter = trained(shape, tmp_path)
    assert [key for key in load_file(tmp_path / format_.TENSORS) if "projection" in key] == []
    assert len(load_file(tmp_path / format_.SOURCES)) == 5
    check_training_goes_on(model, adapter, inlay.PrefixTuning(tokens=P), shape, tmp_path)


def test_a_projection_beside_another_adapter_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained(shape, tmp_path)
    trained(shape, tmp_path / "other", 0.4)
    (tmp_path / "other" / format_.SOURCES).replace(tmp_path / format_.SOURCES)
    unseal(tmp_path)
    with pytest.raises(CheckpointError, match=r"reparameterization.safetensors belongs to another adapter_model"):
        inlay.load(shape.model(), tmp_path)
    inlay.attach(shape.model(), inlay.PrefixTuning(tokens=P)).save(tmp_path)
    assert not (tmp_path / format_.SOURCES).exists()
    inlay.load(shape.model(), tmp_path)


def test_a_damaged_projection_is_refused(tmp_path: Path) -> None:
    trained(SHAPES["llama"], tmp_path)
    path = tmp_path / format_.SOURCES
    unseal(path.parent)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"reparameterization.safetensors: a safetensors file of \d+ bytes that"):
        inlay.load(SHAPES["llama"].model(), tmp_path)
