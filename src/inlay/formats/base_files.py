"""The fingerprint of a base model from its safetensors files, without loading it: only sampled pages are touched."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from ..models import weights
from ..models.fingerprint import digest, digest_of_rows, remember_rounding, row_owners
from ..models.sites import Sites
from .read import tensors

_REAL = ("F64", "F32", "F16", "BF16")


def fingerprint_of_files(folder: Path, sites: Sites) -> str | None:
    """Return what `fingerprint` would say of the loaded model, whose structure is `sites`; None if the files cannot
    tell.

    They cannot if they are no safetensors, or hold a tensor under a name that the model does not use.
    """
    stored = stored_tensors(folder)
    known: dict[int, Tensor] = {}
    for name, module in sites.body():
        for part, p in module._parameters.items():
            if p is None or id(p) in known:
                continue
            found = stored_value(stored, sites, name, part, p)
            if found is None:
                return None
            known[id(p)] = found
    return digest(list(known.values()))


def row_digests_of_files(folder: Path, sites: Sites, own: Collection[str] = ()) -> dict[str, str]:
    """Return what `row_digests` would say of the loaded model, as far as the files tell."""
    stored = stored_tensors(folder)
    digests = {}
    for kind, owners in row_owners(sites, own).items():
        found = [stored_value(stored, sites, name, "weight", weights.own(module, "weight")) for name, module in owners]
        matrices = [t for t in found if t is not None]
        if matrices and len(matrices) == len(owners):
            digests[kind] = digest_of_rows(matrices)
    return digests


def count_as_files(folder: Path, sites: Sites) -> None:
    """Let a model that was rounded to float16 as it was loaded have the fingerprint of its files, which have more bits,
    as far as they tell."""
    stored = stored_tensors(folder)
    found = [
        stored_value(stored, sites, name, part, p)
        for name, module in sites.body()
        for part, p in module._parameters.items()
    ]
    rows = [
        stored_value(stored, sites, name, "weight", weights.own(module, "weight"))
        for owners in row_owners(sites).values()
        for name, module in owners
    ]
    fine = ([t for t in each if t is not None and t.dtype.itemsize > 2] for each in (found, rows))
    remember_rounding(sites.model, *fine)


def stored_value(stored: dict[str, Tensor], sites: Sites, name: str, part: str, p: Tensor | None) -> Tensor | None:
    """Find the stored tensor of a parameter, which may be under a name with or without that of the base model."""
    prefix = getattr(sites.model, "base_model_prefix", "") + "."
    full = f"{name}.{part}" if name else part
    found = next((stored[n] for n in (full, full.removeprefix(prefix), prefix + full) if n in stored), None)
    return None if found is None or p is None or found.shape != p.shape else found


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Raise CheckpointError if a file is damaged."""
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored |= tensors(path, "the weights of a model", lambda _, of: of.dtype in _REAL)
    return stored
