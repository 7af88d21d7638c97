"""Read and write adapters as Hugging Face PEFT does: adapter_config.json beside adapter_model.safetensors.

A method that PEFT lacks uses the same two files with a peft_type of its own. Beside them provenance.json names the base
model by the fingerprint of its weights. Where the tensors are the result of a reparameterization, which PEFT drops,
what they are computed from has a file of its own, so that training can go on. Reading is strict: every tensor has a
place, every place a tensor, and a setting that would change the function and is not known here is an error.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from .. import __version__
from ..core import weights
from ..core.adapter import Adapter, join, prepare
from ..core.method import COMMON_KEYS, Method
from ..core.sites import Sites, ends_with, task_heads
from ..errors import CheckpointError, SettingsError, TargetError
from ..methods import METHODS
from .files import write_json, write_whole

CONFIG, TENSORS, PROVENANCE = "adapter_config.json", "adapter_model.safetensors", "provenance.json"
SOURCES = "reparameterization.safetensors"  # what some of the tensors are computed from
OWN_PROVENANCE = ("inlay_version", "method", "base_fingerprint", "base_rows")  # what `save` itself knows
_PREFIX = "base_model.model."
_PEFT_VERSION = "0.18.0"  # the oldest release whose reading of these files is the one written here

_TASKS = {
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "FEATURE_EXTRACTION": modeling_auto.MODEL_MAPPING_NAMES,
}


def save(adapter: Adapter, folder: Path, provenance: dict[str, Any] | None = None) -> None:
    """Write the adapter's files into `folder`. `provenance` adds what a later run should know."""
    method, model = adapter.method, adapter.model
    sites = Sites(model, adapter.heads)
    # A task makes PEFT expect the head in the file; without one it leaves the base's head alone.
    has_heads = set(task_heads(model)) <= set(adapter.heads)
    tensors = {key: tensor.detach() for key, (_, tensor) in _placed(adapter).items()}
    computed, sources = _computed(adapter)
    from_sources = {key: tensors.pop(key).contiguous() for key in sources}
    tensors |= computed
    settings, tensors = method.to_peft(adapter, sites, tensors)
    config = {
        "peft_type": method.peft_type,
        "task_type": _task_type(model) if has_heads else None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
        "inference_mode": True,
        "peft_version": _PEFT_VERSION,
        "modules_to_save": list(adapter.heads) or None,
        **settings,
    }
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    write_whole(folder / TENSORS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    if from_sources:
        of = {"format": "pt", "of": _digest(folder / TENSORS)}
        write_whole(folder / SOURCES, lambda path: save_file(from_sources, path, metadata=of))
    else:
        (folder / SOURCES).unlink(missing_ok=True)
    own = (__version__, method.name, adapter.base_fingerprint, adapter.base_rows)
    about = dict(zip(OWN_PROVENANCE, own, strict=True))
    write_json(folder / PROVENANCE, about | (provenance or {}))
    write_json(folder / CONFIG, config)


def load(model: nn.Module, folder: str | Path, name: str = "default") -> Adapter:
    """Attach the adapter saved in `folder` (or in the run's folder that holds it) and make it the active one.

    Raises CheckpointError, having changed nothing, if the files are damaged, do not fit the model, or were made on
    another base model.
    """
    folder = adapter_folder(Path(folder))
    config = read_config(folder)
    tensors = read_tensors(folder)
    adapter, state = match(model, config, tensors, name)
    check_base(folder, model, adapter.base_fingerprint)
    check_rows(folder, model, adapter.base_rows)
    join(adapter)
    adapter.load_state_dict(state)
    return adapter


def start_from(adapter: Adapter, folder: Path) -> None:
    """Give the attached adapter, but for its heads, the tensors saved in `folder` by the same method.

    Raises CheckpointError, having changed nothing, if they do not fit.
    """
    folder = adapter_folder(folder)
    tensors = adapter.method.from_peft_tensors(read_config(folder), read_tensors(folder))
    sites = Sites(adapter.model, adapter.heads)
    placed = {key: own for key, (own, _) in _placed(adapter).items() if not sites.in_head(own)}
    if missing := sorted(placed.keys() - tensors.keys()):
        raise CheckpointError(
            f"{folder} has no {missing[0]}, which {adapter.method.name} trains here: it was made by another method"
        )
    adapter.load_state_dict(adapter.state_dict() | {own: tensors[key] for key, own in placed.items()})


def match(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], name: str = "default"
) -> tuple[Adapter, dict[str, Tensor]]:
    """The adapter that a checkpoint describes, not yet in the model, with its tensors under their own names.

    Works on a model of the meta device too. Raises CheckpointError if one does not fit the other.
    """
    known = [n for n, _ in Sites(model, ()).modules()]
    saved_whole = config.get("modules_to_save") or ()
    heads = tuple(n for n in known if any(ends_with(n, entry) for entry in saved_whole))
    sites = Sites(model, heads)
    method = _method(_with_chosen_targets(config, [n for n in known if n and not sites.in_head(n)])).of_tensors(tensors)
    try:
        adapter = prepare(model, method, name, heads=heads)
    except TargetError as problem:
        raise CheckpointError(f"{CONFIG} does not fit {type(model).__name__}: {problem}") from None
    tensors = method.from_peft_tensors(config, tensors)

    placed = _placed(adapter)
    state = {own: tensors[key] for key, (own, _) in placed.items() if key in tensors}
    for key in tensors.keys() - placed.keys() - _computed(adapter)[0].keys():
        if not _is_copy_of_base(adapter, key, tensors[key]):
            state[key] = tensors[key]
    adapter.check_fits(state := _with_statistics(adapter, state))
    return adapter, state


def check_base(folder: Path, model: nn.Module, base_fingerprint: str | None) -> None:
    """Raises CheckpointError if the adapter in `folder` says that it was trained on a base with other weights."""
    trained_on = read_provenance(folder).get("base_fingerprint")
    if trained_on and base_fingerprint and trained_on != base_fingerprint:
        name = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
        raise CheckpointError(wrong_base(folder, name, trained_on, base_fingerprint))


def check_rows(folder: Path, model: nn.Module, base_rows: dict[str, str]) -> None:
    """Raises CheckpointError if the adapter in `folder` says that it was trained on embeddings with other rows.

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
    return (
        f"{folder} was trained on a base model with fingerprint {trained_on[:12]}; {name} has {found[:12]}: "
        "the weights differ, so its outputs would be wrong. Load the base model that it was trained on"
    )


def adapter_folder(folder: Path) -> Path:
    """`folder` itself, or its `adapter` if it is a run's folder. Raises CheckpointError if neither holds an adapter."""
    for candidate in (folder, folder / "adapter"):
        if (candidate / CONFIG).is_file():
            return candidate
    found = (
        f"it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        if folder.is_dir()
        else ("there is no such folder")
    )
    raise CheckpointError(f"{folder}: no {CONFIG} here or in its folder adapter; {found}")


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as problem:
        raise CheckpointError(f"{folder / CONFIG}: not JSON: {problem}") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise CheckpointError(f"{folder / CONFIG}: no peft_type; this is not an adapter's configuration")
    return config


def read_provenance(folder: Path) -> dict[str, Any]:
    """What Inlay wrote about the adapter; empty for one that another program saved."""
    path = folder / PROVENANCE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as problem:
        raise CheckpointError(f"{path}: not JSON: {problem}") from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors, and those that training goes on from where they are kept beside them."""
    path = folder / TENSORS
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; an adapter needs it beside {CONFIG}")
    tensors = _read(path)[0]
    if (folder / SOURCES).is_file():
        sources, metadata = _read(folder / SOURCES)
        if metadata.get("of") != _digest(path):
            raise CheckpointError(
                f"{folder / SOURCES} belongs to another {TENSORS} than the one beside it; remove it to use the adapter "
                "as that one has it"
            )
        tensors |= sources
    return tensors


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes, not a whole safetensors file ({problem}); copy or train it again"
        ) from None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _method(config: dict[str, Any]) -> Method:
    for cls in METHODS.values():
        try:
            method = cls.from_peft_config(config)
        except KeyError as key:
            raise CheckpointError(f"{CONFIG}: {key.args[0]} is missing") from None
        except (SettingsError, TypeError) as problem:
            raise CheckpointError(f"{CONFIG}: a setting has a value that it cannot have: {problem}") from None
        if method is not None:
            _check_settings(config, cls)
            return method
    known = ", ".join(sorted({cls.peft_type for cls in METHODS.values()}))
    raise CheckpointError(f"{CONFIG}: no method here reads peft_type {config['peft_type']}; known: {known}")


def _with_chosen_targets(config: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """`config` with the target_modules that select among `names` what they select in PEFT."""
    targets = config.get("target_modules")
    if isinstance(targets, list):  # an entry may match nothing, or a head only: whether all is there, the tensors tell
        config = config | {"target_modules": [t for t in targets if any(ends_with(n, t) for n in names)] or targets}
    layers, excluded = config.get("layers_to_transform"), config.get("exclude_modules")
    if layers in (None, []) and not excluded:
        return config
    names = [n for n in names if _matches(n, targets) and not _matches(n, excluded)]
    if layers not in (None, []):
        numbers = {layers} if isinstance(layers, int) else set(layers)
        lists = config.get("layers_pattern") or r"[^.]*"
        lists = lists if isinstance(lists, str) else "|".join(lists)
        found = {n: re.match(rf"(?:|.*?\.)(?:{lists})\.(\d+)\.", n) for n in names}
        names = [n for n, match in found.items() if match and int(match[1]) in numbers]
    return config | {"target_modules": names}


def _matches(name: str, targets: str | list[str] | None) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(ends_with(name, target) for target in targets or ())


def _check_settings(config: dict[str, Any], cls: type[Method]) -> None:
    if not cls.peft_reads:
        return  # a format of our own: from_peft_config has read every key
    harmless = COMMON_KEYS | cls.peft_fields | {"layers_to_transform", "exclude_modules", "layers_pattern"}
    for key, value in config.items():
        if key not in harmless and value not in (None, False, "none", "", 0) and value != {} and value != []:
            raise CheckpointError(
                f"{CONFIG}: {key} is {value!r}; this changes what the adapter computes and is not known"
            )


def _placed(adapter: Adapter) -> dict[str, tuple[str, Tensor]]:
    """Checkpoint key -> (the adapter's own key, tensor)."""
    method, sites = adapter.method, Sites(adapter.model, adapter.heads)
    placed = {}
    for host, name, tensor in adapter.tensors():
        own = f"{host}.{name}" if host else name
        key = f"{method.peft_head_prefix}{own}" if sites.in_head(host) else method.peft_key(host, name)
        placed[key] = (own, tensor)
    return placed


def _with_statistics(adapter: Adapter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the base's running statistics, if it has none at all: Inlay did not always save them."""
    own = {
        f"{name}.{part}" if name else part: tensor
        for name, host, delta in adapter.hosts()
        for part, tensor in delta.saved(host).items()
        if part in weights.statistics(host)
    }
    return state if own.keys() & state.keys() else own | state


def _computed(adapter: Adapter) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors that a checkpoint shows in place of those that compute them, and the keys of the latter."""
    shown, sources = {}, set()
    for host, module, delta in adapter.hosts():
        if computed := delta.computed(module):
            shown |= {adapter.method.peft_key(host, name): tensor.detach() for name, tensor in computed.items()}
            sources |= {adapter.method.peft_key(host, name) for name in delta.saved(module)}
    return shown, sources


def _is_copy_of_base(adapter: Adapter, key: str, tensor: Tensor) -> bool:
    """PEFT saves an adapted embedding's frozen weight as well; that one must be the base's own, and adds nothing."""
    name = key.removeprefix(_PREFIX).removesuffix(".base_layer.weight")
    if not key.endswith(".base_layer.weight") or name not in adapter.deltas:
        return False
    own = adapter.model.get_submodule(name).weight
    assert isinstance(own, Tensor)
    if own.is_meta:
        return own.shape == tensor.shape
    own = own.detach().cpu()
    if not (torch.equal(own, tensor.to(own.dtype)) or torch.equal(own.to(tensor.dtype), tensor)):
        raise CheckpointError(f"{key} differs from this model's {name}.weight: the adapter was trained on another base")
    return True


def _task_type(model: nn.Module) -> str | None:
    kind = type(model).__name__
    return next((task for task, names in _TASKS.items() if kind in _flat(names.values())), None)


def _flat(names: Any) -> set[str]:
    return {n for name in names for n in ((name,) if isinstance(name, str) else name)}
