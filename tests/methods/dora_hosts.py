"""Hosts with a DoRA, and the changed weight written out with dense matrices in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.models import weights


def one(host: nn.Module, **settings: Any) -> tuple[nn.Module, inlay.Adapter, Any]:
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.DoRA(targets=("0",), **settings))
    return model, adapter, adapter.deltas["0"]


def host_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    host = {"linear": nn.Linear(9, 6), "no bias": nn.Linear(9, 6, bias=False), "transposed": Conv1D(6, 9)}[kind]
    for p in host.parameters():
        nn.init.normal_(p)
    return host.to(dtype)


def dense(host: nn.Module) -> Tensor:
    return weights.read(host)["weight"].detach().double()


def changed(host: nn.Module, delta: Any) -> Tensor:
    """V = W + s (B A - B0 A0) in float64."""
    change = delta.lora_B.double() @ delta.lora_A.double()
    if delta.start_A is not None:
        change = change - delta.start_B.double() @ delta.start_A.double()
    return (dense(host) + delta.scale * change).detach()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected) / expected).abs().max())


every_host = pytest.mark.parametrize("kind", ["linear", "no bias", "transposed"])
