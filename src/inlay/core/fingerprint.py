"""What tells one base model from another: a hash of its weights, whatever its name, folder or dtype.

Each tensor of the pretrained base counts with its shape and up to 256 of its values, rounded to bfloat16 and, below
2**-16, to zero, where float16 has fewer digits. So a checkpoint in 16 bits is the same base whether it is loaded in
bfloat16, float16 or float32, and one in 32 bits whether it is loaded in bfloat16 or float32. (Rounding that one to
float16 and then to bfloat16 gives other values.) New heads do not count; quantized tensors count with their packed
bytes.
"""

import hashlib

import torch
from torch import Tensor

from .sites import Sites

_SAMPLES = 256
_SMALLEST = 2**-16


@torch.no_grad()
def fingerprint(sites: Sites) -> str | None:
    """64 hexadecimal digits, or None for a model without values (on the meta device)."""
    tensors: dict[int, Tensor] = {id(p): p for _, m in sites.body() for p in m._parameters.values() if p is not None}
    if any(t.is_meta for t in tensors.values()):
        return None
    return digest(list(tensors.values()))


def digest(tensors: list[Tensor]) -> str:
    """The order of the tensors does not matter: names and nesting differ between copies of one model."""
    return hashlib.sha256(b"".join(sorted(_tensor_digest(t) for t in tensors))).hexdigest()


def _tensor_digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    sample = flat[::step][:_SAMPLES]
    if sample.is_floating_point():
        sample = sample.to(torch.bfloat16)
        sample = sample.masked_fill(sample.abs() < _SMALLEST, 0).view(torch.int16)
    shape = ",".join(map(str, tensor.shape)).encode()
    return hashlib.sha256(shape + b":" + sample.cpu().numpy().tobytes()).digest()
