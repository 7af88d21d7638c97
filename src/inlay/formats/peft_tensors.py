"""The adapter's tensors in a folder: a safetensors file, or one of the older form that torch writes."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .peft_config import CONFIG

TENSORS = "adapter_model.safetensors"
SOURCES = "reparameterization.safetensors"  # what some of the tensors are computed from
_OLDER = "adapter_model.bin"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors, and those that training goes on from where they are kept beside them."""
    path = folder / TENSORS
    if not path.is_file():
        if (folder / _OLDER).is_file():
            return _read_older(folder / _OLDER)
        raise CheckpointError(f"{path}: no such file; an adapter needs it beside {CONFIG}")
    tensors = _read(path)[0]
    if (folder / SOURCES).is_file():
        sources, metadata = _read(folder / SOURCES)
        if metadata.get("of") != digest(path):
            raise CheckpointError(
                f"{folder / SOURCES} belongs to another {TENSORS} than the one beside it; remove it to use the adapter "
                "as that one has it"
            )
        tensors |= sources
    return tensors


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes, not a whole safetensors file ({problem}); copy or train it again"
        ) from None


def _read_older(path: Path) -> dict[str, Tensor]:
    """Only tensors are taken from such a file: it is a pickle, which could hold code, and none is run."""
    try:
        tensors: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as problem:
        first = str(problem).partition("\n")[0]
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes, not a whole file of tensors and nothing else ({first}); copy it "
            f"again, or have its maker save {TENSORS}"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path}: it holds something else than tensors by name; have its maker save {TENSORS}")
    return {key: tensor.contiguous() for key, tensor in tensors.items()}
