"""An adapter's files, read whole: adapter_config.json, adapter_model.safetensors and provenance.json.

Reading is strict: methods/loading.py finds a place for every tensor, and a tensor for every place, or raises an error.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.saving import FOLDER
from ..errors import CheckpointError
from . import seal
from .paths import nearest_path
from .peft_config import CONFIG, PeftConfig, read_config
from .peft_tensors import SOURCES as SOURCES
from .peft_tensors import TENSORS as TENSORS
from .peft_tensors import read_tensors
from .read import read_object
from .seal import PROVENANCE as PROVENANCE
from .seal import read_provenance

_OF_MODEL = "config.json"
_PIPELINES = {"ForSequenceClassification": "text-classification", "ForCausalLM": "text-generation"}


@dataclass(frozen=True)
class Saved:
    """An adapter's files, read whole and known to be as they were written."""

    folder: Path
    config: PeftConfig
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


def read(folder: Path) -> Saved:
    """Read the adapter in `folder`, or in the run's folder that holds it. Raises CheckpointError for a damaged file."""
    folder = adapter_folder(folder)
    seal.check(folder)
    return Saved(folder, read_config(folder), read_tensors(folder), read_provenance(folder))


def check_base(folder: Path, model: nn.Module, base_fingerprint: str | None, came_packed: bool) -> None:
    """Raise CheckpointError if the adapter in `folder` says that it was trained on a base with other weights.

    One that was trained on a base that came quantized fits that base in 16 bits too, of which it does not know the
    fingerprint: there its rows tell.
    """
    about = read_provenance(folder)
    if about.get(seal.CAME_PACKED) is True and not came_packed:
        return
    trained_on = about.get("base_fingerprint")
    if trained_on and base_fingerprint and trained_on != base_fingerprint:
        name = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
        raise CheckpointError(wrong_base(folder, name, trained_on, base_fingerprint))


def check_rows(folder: Path, model: nn.Module, base_rows: dict[str, str]) -> None:
    """Raise CheckpointError if the adapter in `folder` says that it was trained on embeddings with other rows.

    An adapter says so for as long as Inlay looks at rows, and says nothing of rows that are in its own file.
    """
    trained_on = read_provenance(folder).get("base_rows") or {}
    for kind in sorted(trained_on.keys() & base_rows.keys()):
        if trained_on[kind] != base_rows[kind]:
            raise CheckpointError(
                f"{folder} was trained on a base model whose {kind} embeddings have other rows than this "
                f"{type(model).__name__}: when a vocabulary is resized the new rows are drawn anew, so its outputs "
                "would be wrong. Load the very model that it was trained on (save_pretrained after "
                "resize_token_embeddings keeps it), or resize with the same seed; an adapter that was trained with the "
                "embeddings among its heads keeps their rows itself"
            )


def wrong_base(folder: Path, name: str, trained_on: str, found: str) -> str:
    """Say that an adapter belongs to another base, and what to do."""
    return (
        f"{folder} was trained on a base model with fingerprint {trained_on[:12]}; {name} has {found[:12]}: "
        "the weights differ, so its outputs would be wrong. Load the base model that it was trained on"
    )


def adapter_folder(folder: Path) -> Path:
    """Return `folder` itself, its `adapter` if it is a run's, or the one that is beside a model which saved itself.
    Raises CheckpointError if there is none, or more than one."""
    for candidate in (folder, folder / "adapter"):
        if (candidate / CONFIG).is_file():
            return candidate
    beside = sorted(path.parent for path in folder.glob(f"{FOLDER}/*/{CONFIG}"))
    if len(beside) == 1:
        return beside[0]
    if beside:
        raise CheckpointError(f"{folder} holds several adapters; name one: {', '.join(map(str, beside))}")
    if (folder / _OF_MODEL).is_file():
        raise CheckpointError(_whole_model(folder))
    if (folder / "run.yaml").is_file():
        goes_on = f"inlay resume {shlex.quote(str(folder))}"
        raise CheckpointError(f"{folder}: this run has kept no adapter; if it was interrupted, go on with: {goes_on}")
    found = (
        f"it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        if folder.is_dir()
        else f"there is no such folder{nearest_path(folder)}"
    )
    raise CheckpointError(f"{folder}: no {CONFIG} here or in its folder adapter; {found}")


def _whole_model(folder: Path) -> str:
    """Say what a model is that was named as an adapter, and how it is used: as a merged one is, by transformers."""
    kinds = read_object(folder / _OF_MODEL, "a model's configuration").get("architectures") or ["unknown class"]
    kind = str(kinds[0])
    task = next((task for end, task in _PIPELINES.items() if kind.endswith(end)), None)
    said = f"{folder} is a whole model ({kind}) without an adapter, such as inlay merge writes"
    if task is None:
        return f"{said}; train one on it with: inlay train {shlex.quote(str(folder))} DATA"
    code = f'import transformers as t; print(t.pipeline("{task}", {json.dumps(str(folder))})("a text"))'
    return f"{said}; use it with transformers: python -c {shlex.quote(code)}; inlay eval scores the run it is from"
