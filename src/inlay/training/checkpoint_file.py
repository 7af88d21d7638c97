"""A checkpoint as a file: tensors, and a header of texts, under one digest, so that a bit that changed is found.

It is a safetensors file. The digest is SHA-256 of the other texts and of every tensor's name, dtype, shape and bytes,
which is all that is read of the file. Files of versions before the digest have none, and nothing else in its place.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..formats.read import guarded

_DIGEST = "digest"
_HEADER = {"progress", "random", "about", "strides"}  # the texts of every checkpoint, each of them JSON


@dataclass(frozen=True)
class CheckpointFile:
    """What is in the file, of which nothing has changed since it was written."""

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]  # the file's own bytes: what keeps them must copy them


def write_checkpoint_file(path: Path, header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a number is not finite: nothing could go on from that."""
    assert header.keys() == _HEADER
    texts = {name: json.dumps(value) for name, value in header.items()}
    contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    if problem := _wrong_numbers(contiguous):
        raise CheckpointError(f"it would not be one to go on from: {problem}")
    save_file(contiguous, path, metadata=texts | {_DIGEST: _digest(texts, contiguous)})


def read_checkpoint_file(path: Path, todo: str) -> CheckpointFile:
    """Raise CheckpointError, which says `todo`, for a file that is damaged, or holds numbers that are not finite."""
    with readable(path, todo):
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        digest = texts.pop(_DIGEST, None)
        if texts.keys() != _HEADER:  # a digest under a name that was damaged is one of those that are too many
            raise ValueError(f"its header should have {', '.join(sorted(_HEADER))}, and has {', '.join(sorted(texts))}")
        if digest is not None and digest != _digest(texts, tensors):
            raise ValueError("it is damaged: its digest is not that of what it holds")
        if problem := _wrong_numbers(tensors):
            raise ValueError(problem)
        return CheckpointFile(path, {name: json.loads(text) for name, text in texts.items()}, tensors)


@contextmanager
def readable(path: Path, todo: str) -> Iterator[None]:
    """Turn whatever goes wrong with the file in this block into a CheckpointError that names it and says `todo`."""
    size = f" of {path.stat().st_size} bytes" if path.is_file() else ""
    with guarded(path, f"a checkpoint{size}", todo=todo):
        yield


def _digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(json.dumps([name, texts[name]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _wrong_numbers(tensors: Mapping[str, Tensor]) -> str | None:
    """Return what of them no training can have; None if there is nothing."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            return f"{name} has complex numbers"
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, _ends(tensor))):
            return f"{name} has numbers that are not finite"
    return None


def _ends(tensor: Tensor) -> tuple[float, float]:
    """Return the least and the largest number; NaN if there is one. Nothing of the tensor's size is made."""
    least, largest = torch.aminmax(tensor)
    return float(least), float(largest)
