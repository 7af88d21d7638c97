"""What tells one base model from another: a hash of its weights, whatever its name, folder or dtype.

Each tensor of the pretrained base counts with its shape and up to 256 of its values, rounded to bfloat16 and, below
2**-16, to zero, where float16 has fewer digits. So a checkpoint in 16 bits is the same base whether it is loaded in
bfloat16, float16 or float32, and one in 32 bits whether it is loaded in bfloat16 or float32. (Rounding that one to
float16 and then to bfloat16 gives other values.) New heads do not count. What Inlay has quantized counts as it was
before; tensors that came quantized count with their packed bytes.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .sites import Sites

_SAMPLES = 256
_SMALLEST = 2**-16
_BEFORE = "_inlay_digest"  # attribute of a quantized layer


@torch.no_grad()
def fingerprint(sites: Sites) -> str | None:
    """64 hexadecimal digits, or None for a model without values (on the meta device)."""
    digests: dict[int, bytes] = {}
    for _, module in sites.body():
        for name, p in module._parameters.items():
            if p is not None and p.is_meta:
                return None
            if p is not None and id(p) not in digests:
                before = module.__dict__.get(_BEFORE) if name == "weight" else None
                digests[id(p)] = before or _tensor_digest(p)
    return _combined(digests.values())


def remember(packed: nn.Module, weight: Tensor) -> None:
    """Let the weight of `packed` count as `weight`, from which it was quantized."""
    packed.__dict__[_BEFORE] = _tensor_digest(weight)


def digest(tensors: list[Tensor]) -> str:
    """The order of the tensors does not matter: names and nesting differ between copies of one model."""
    return _combined(_tensor_digest(t) for t in tensors)


def _combined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _tensor_digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    sample = flat[::step][:_SAMPLES]
    if sample.is_floating_point():
        sample = sample.to(torch.bfloat16)
        sample = sample.masked_fill(sample.abs() < _SMALLEST, 0).view(torch.int16)
    shape = ",".join(map(str, tensor.shape)).encode()
    return hashlib.sha256(shape + b":" + sample.cpu().numpy().tobytes()).digest()
