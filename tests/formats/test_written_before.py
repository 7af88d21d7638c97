"""Adapters from before Inlay knew experts, buffers and blocks of every kind: they open and compute the same."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn

import inlay

from ..shapes import SHAPES, Shape, logits

STORED = Path(__file__).with_name("written_before.zip")

SMALL = {
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    },
    "bert": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2},
    "t5": {"d_model": 16, "d_ff": 24, "num_heads": 2},
}


def small(name: str) -> Shape:
    shape = SHAPES[name].shallow
    for key, value in SMALL[name].items():
        setattr(shape.config, key, value)
    return shape


def filled(model: nn.Module) -> Any:
    """The model with values that depend on its parameters' names alone."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            is_gain = p.dim() == 1 and name.endswith("weight")
            p.copy_(0.2 * torch.randn(p.shape, generator=generator) + float(is_gain))
    return model.eval()


@pytest.mark.parametrize("name", inlay.METHODS)
@pytest.mark.parametrize("of", SMALL)
def test_an_adapter_that_was_written_before_computes_what_it_did(of: str, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(STORED) as stored:
        stored.extractall(tmp_path, [entry for entry in stored.namelist() if entry.startswith(f"{of}/{name}/")])
        expected = load(stored.read("outputs.safetensors"))[f"{of}/{name}"]
    shape = small(of)
    model = filled(shape.model())
    inlay.load(model, tmp_path / of / name)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, shape), expected, atol=1e-5, rtol=1e-5)
