"""Models of four shapes on bases in 4 bits, and the plain models that have the same weights."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.bases.quantized import quantize
from inlay.models import weights

from .shapes import SHAPES, Shape, disturb, logits, method

bnb = pytest.importorskip("bitsandbytes")

WIDER = {  # of whole blocks of 64 numbers, and of layers that bitsandbytes would repack
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"n_embd": 64},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16},
}
TRAIN_PACKED = ("full", "last-layers", "pattern")


def wider(name: str) -> Shape:
    config = SHAPES[name].config
    return dataclasses.replace(SHAPES[name], config=type(config).from_dict(config.to_dict() | WIDER[name]))


WIDE = {name: wider(name) for name in SHAPES}

every_shape = pytest.mark.parametrize("shape", WIDE.values(), ids=WIDE)
two_shapes = pytest.mark.parametrize("shape", [WIDE["llama"], WIDE["bert"]], ids=["llama", "bert"])
every_method = pytest.mark.parametrize("name", [name for name in inlay.METHODS if name not in TRAIN_PACKED])


def quantized(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    model = shape.model(dtype)
    quantize(model, dtype)
    return model


def packed_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from ((name, m) for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit))


def dequantized(shape: Shape) -> Any:
    """The plain model that has the weights which the quantized one stands for."""
    model = shape.model()
    for name, layer in packed_layers(quantized(shape)):
        weight_OI = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        host = model.get_submodule(name)
        host.weight.data = weight_OI.T.contiguous() if weights.is_flipped(host) else weight_OI
    return model


def attached(name: str, shape: Shape, model: nn.Module) -> inlay.Adapter:
    torch.manual_seed(0)
    adapter = inlay.attach(model, method(name, shape))
    disturb(adapter)
    return adapter


def gradients(adapter: inlay.Adapter, shape: Shape, **changes: Any) -> dict[str, Tensor]:
    adapter.model.zero_grad()
    logits(adapter.model, shape, **changes).square().mean().backward()
    found = {name: p.grad for name, p in adapter.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor equals its counterpart to this part of its length."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor - b[name]).norm() <= tolerance * b[name].norm() + 1e-9, name
