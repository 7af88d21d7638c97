"""The fingerprint of a base model from its safetensors files, without loading it: only sampled pages are touched."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.fingerprint import digest
from ..core.sites import Sites

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def fingerprint_of_files(folder: Path, sites: Sites) -> str | None:
    """What `fingerprint` would say of the loaded model, whose structure is `sites`; None if the files cannot tell.

    They cannot if they are no safetensors, or hold a tensor under a name that the model does not use.
    """
    stored = _stored_tensors(folder)
    prefix = getattr(sites.model, "base_model_prefix", "") + "."
    tensors: dict[int, Tensor] = {}
    for name, module in sites.body():
        for part, p in module._parameters.items():
            if p is None or id(p) in tensors:
                continue
            full = f"{name}.{part}" if name else part
            found = next((stored[n] for n in (full, full.removeprefix(prefix), prefix + full) if n in stored), None)
            if found is None or found.shape != p.shape:
                return None
            tensors[id(p)] = found
    return digest(list(tensors.values()))


def _stored_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        start = 8 + int.from_bytes(data[:8].numpy().tobytes(), "little")
        header: dict[str, Any] = json.loads(data[8:start].numpy().tobytes())
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _DTYPES:
                begin, end = (start + offset for offset in entry["data_offsets"])
                part = data[begin:end]
                aligned = part if begin % 8 == 0 else part.clone()
                tensors[name] = aligned.view(_DTYPES[entry["dtype"]]).view(entry["shape"])
    return tensors
