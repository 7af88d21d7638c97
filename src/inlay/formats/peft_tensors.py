"""The adapter's tensors in a folder: a safetensors file, or one of the older form that torch writes."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .files import digest_of
from .peft_config import CONFIG
from .read import header, pickled_tensors, tensors

TENSORS = "adapter_model.safetensors"
SOURCES = "reparameterization.safetensors"  # what some of the tensors are computed from
_OLDER = "adapter_model.bin"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the adapter's tensors, and those that training goes on from where they are kept beside them.

    Raises CheckpointError if the files are damaged or a number is not finite.
    """
    path = folder / TENSORS
    if not path.is_file() and (folder / _OLDER).is_file():
        todo = f"copy it again, or have its maker save {TENSORS}"
        found = pickled_tensors(folder / _OLDER, "the tensors of an adapter", todo=todo)
        return _checked(folder / _OLDER, {key: tensor.contiguous() for key, tensor in found.items()})
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; an adapter needs it beside {CONFIG}")
    found = _checked(path, tensors(path, "the tensors of an adapter"))
    if (folder / SOURCES).is_file():
        if header(folder / SOURCES)[1].get("of") != digest_of(path):
            raise CheckpointError(
                f"{folder / SOURCES} belongs to another {TENSORS} than the one beside it; remove it to use the adapter "
                "as that one has it"
            )
        found |= _checked(folder / SOURCES, tensors(folder / SOURCES))
    return found


def _checked(path: Path, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Raise CheckpointError for a number that is not finite. Which must be real is known once they have a place."""
    for key, tensor in found.items():
        if tensor.dtype not in _FLOATS:
            if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
                raise CheckpointError(
                    f"{path}: {key} has numbers of the kind {_name(tensor)}, which no adapter is made of; it must be "
                    f"one of {', '.join(str(dtype).removeprefix('torch.') for dtype in _FLOATS)}"
                )
        elif broken := int((~tensor.float().isfinite()).sum()):
            raise CheckpointError(
                f"{path}: {broken} of the {tensor.numel()} numbers of {key} are not finite, so the adapter was "
                "damaged in training or since; train it again, or take an earlier copy"
            )
    return found


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
