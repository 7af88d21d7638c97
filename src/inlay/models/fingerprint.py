"""What tells one base model from another: a hash of its weights, whatever its name, folder or dtype.

Each tensor of the pretrained base counts with its shape and up to 256 of its values, rounded to bfloat16 and, below
2**-16, to zero, where float16 has fewer digits. So a checkpoint in 16 bits is the same base whether it is loaded in
bfloat16, float16 or float32, and one in 32 bits whether it is loaded in bfloat16 or float32. Rounding that one to
float16 and then to bfloat16 gives other values: `remember_rounding` lets those count as the files'. New heads do not
count. What Inlay has quantized counts as it was before; tensors that came quantized count with their packed bytes.

The fingerprint samples, so it overlooks a few rows that were added to a vocabulary, which are drawn anew each time.
`row_digests` looks at each row of every embedding, and of what makes logits of a language model's last hidden states.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from . import weights
from .heads import output_embeddings
from .sites import Sites

_SAMPLES = 256
_OF_A_ROW = 8  # values; what is drawn at random differs in all of them
_SMALLEST = 2**-16
_BEFORE = "_inlay_digest"  # attribute of a quantized layer
_ROUNDED = "_inlay_rounded"  # of a model: digests of values in float16, and of those that were rounded to them


@torch.no_grad()
def fingerprint(sites: Sites) -> str | None:
    """Return 64 hexadecimal digits, or None for a model without values (on the meta device)."""
    digests: dict[int, bytes] = {}
    rounded = _rounded(sites)
    for _, module in sites.body():
        for name, p in module._parameters.items():
            if p is None or id(p) in digests:
                continue
            found = module.__dict__.get(_BEFORE) if name == "weight" else None
            if found is None:
                value = weights.value(module, name)
                assert value is not None
                if value.is_meta:
                    return None
                found = _tensor_digest(value)
            digests[id(p)] = rounded.get(found, found)
    return _combined(digests.values())


def came_packed(sites: Sites) -> bool:
    """Tell whether weights of the base came quantized, so that its fingerprint is not that of the base in 16 bits."""
    return any(weights.is_packed(m) and _BEFORE not in m.__dict__ for _, m in sites.body() if weights.is_linear(m))


@torch.no_grad()
def row_digests(sites: Sites, own: Collection[str] = ()) -> dict[str, str]:
    """Return what tells the rows of `row_owners` apart, by "input" and "output"; {} for a model without values."""
    digests = {}
    rounded = _rounded(sites)
    for kind, owners in row_owners(sites, own).items():
        values = [weights.value(module, "weight") for _, module in owners]
        matrices = [v for v in values if v is not None and v.is_floating_point()]  # others are packed
        if matrices and not any(v.is_meta for v in matrices):
            digests[kind] = digest_of_rows(matrices, rounded)
    return digests


def row_owners(sites: Sites, own: Collection[str] = ()) -> dict[str, list[tuple[str, nn.Module]]]:
    """Find the modules whose rows belong to tokens or positions, but for those of which an adapter has `own` rows.

    A weight that is both input and output is the former.
    """
    inputs = [(name, m) for name, m in sites.body() if isinstance(m, nn.Embedding)]
    known = {id(m.weight) for _, m in inputs}
    last = output_embeddings(sites.model)
    outputs = [(name, m) for name, m in sites.modules() if m is last and id(weights.own(m, "weight")) not in known]
    found = {"input": inputs, "output": outputs}
    return {kind: [(n, m) for n, m in owners if n not in own] for kind, owners in found.items()}


def digest_of_rows(matrices: list[Tensor], rounded: Mapping[bytes, bytes] | None = None) -> str:
    found = [_values_digest(m.shape, m.detach()[:, :_OF_A_ROW]) for m in matrices]
    return _combined((rounded or {}).get(each, each) for each in found)


def remember_rounding(model: nn.Module, stored: Iterable[Tensor], embeddings: Iterable[Tensor]) -> None:
    """Let weights of the model count as the `stored` ones, from which they were rounded to float16, until they change;
    and the rows of `embeddings`, which are some of these, as well."""
    rounded = model.__dict__.setdefault(_ROUNDED, {})
    samples = [(t.shape, _sampled(t)) for t in stored] + [(t.shape, t[:, :_OF_A_ROW]) for t in embeddings]
    for shape, sample in samples:
        rounded[_values_digest(shape, sample.to(torch.float16))] = _values_digest(shape, sample)


def remember(packed: nn.Module, weight: Tensor) -> None:
    """Let the weight of `packed` count as `weight`, from which it was quantized."""
    packed.__dict__[_BEFORE] = _tensor_digest(weight)


def digest(tensors: list[Tensor]) -> str:
    """Digest tensors in any order: names and nesting differ between copies of one model."""
    return _combined(_tensor_digest(t) for t in tensors)


def _combined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _rounded(sites: Sites) -> Mapping[bytes, bytes]:
    return sites.model.__dict__.get(_ROUNDED, {})


def _tensor_digest(tensor: Tensor) -> bytes:
    return _values_digest(tensor.shape, _sampled(tensor))


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return flat[::step][:_SAMPLES]


def _values_digest(of_shape: torch.Size, sample: Tensor) -> bytes:
    if sample.is_floating_point():
        sample = sample.to(torch.bfloat16)
        sample = sample.masked_fill(sample.abs() < _SMALLEST, 0).view(torch.int16)
    shape = ",".join(map(str, of_shape)).encode()
    return hashlib.sha256(shape + b":" + sample.cpu().numpy().tobytes()).digest()
