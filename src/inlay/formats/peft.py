"""Read and write adapters as Hugging Face PEFT does: adapter_config.json beside adapter_model.safetensors.

A method that PEFT lacks uses the same two files with a peft_type of its own. Beside them provenance.json names the base
model by the fingerprint of its weights. Where the tensors are the result of a reparameterization, which PEFT drops,
what they are computed from has a file of its own, so that training can go on. Reading is strict: every tensor has a
place, every place a tensor, and a setting that would change the function and is not known here is an error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from .. import __version__, expressions
from ..attached.adapter import Adapter, plan_attach
from ..core.state import commit
from ..errors import CheckpointError, TargetError
from ..hub import offline
from ..methods.reparameterized import experts_peft
from ..methods.reparameterized.lora import LoRA
from ..models import weights
from ..models.heads import task_heads
from ..models.sites import Sites
from . import seal
from .bounded import Bounded
from .files import digest_of, write_json, write_whole
from .peft_config import CONFIG, for_modules, method_of, read_config
from .peft_names import PREFIX, of_embeddings, renamed, saved_whole, without_copies, without_doubles
from .peft_plain import plain_form
from .peft_tensors import SOURCES, TENSORS, read_tensors
from .read import guarded
from .seal import PROVENANCE, read_provenance

_OWN = ("inlay_version", "method", "base_fingerprint", "base_rows")
OWN_PROVENANCE = (*_OWN, *seal.KEYS)  # what `save` itself knows
_PEFT_VERSION = "0.18.0"  # the oldest release whose reading of these files is the one written here

_TASKS = {
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "FEATURE_EXTRACTION": modeling_auto.MODEL_MAPPING_NAMES,
}


def save(
    adapter: Adapter,
    folder: Path,
    provenance: dict[str, Any] | None = None,
    plain: bool = False,
    tokenizer: Any | None = None,
) -> None:
    """Write the adapter's files into `folder`, and the tokenizer's. `provenance` adds what a later run should know.

    With `plain` it is a LoRA of one rank and one alpha; raises AdapterStateError, having written nothing, if it has no
    such form.
    """
    method, model = adapter.method, adapter.model
    sites = Sites(model, adapter.heads, adapter.part)
    # A task makes PEFT expect the head in the file; without one it leaves the base's head alone.
    has_heads = set(task_heads(model)) <= set(adapter.heads)
    from_sources: dict[str, Tensor] = {}
    if plain:
        settings, tensors = plain_form(adapter)
    else:
        tensors = {key: tensor.detach() for key, (_, tensor) in _placed(adapter).items()}
        computed, sources = _computed(adapter)
        from_sources = {key: tensors.pop(key).contiguous() for key in sources}
        settings, tensors = method.to_peft(adapter, sites, tensors | computed)
    config = {
        "peft_type": method.peft_type,
        "task_type": _task_type(model) if has_heads else None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
        "inference_mode": True,
        "peft_version": _PEFT_VERSION,
        "modules_to_save": [head for head in adapter.heads if head] or None,
        **settings,
    }
    if adapter.part is not None and config["peft_type"].startswith("INLAY_"):  # PEFT's types list the hosts themselves
        config["part"] = adapter.part
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    write_whole(folder / TENSORS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    written = [TENSORS, CONFIG]
    if from_sources:
        of = {"of": digest_of(folder / TENSORS)}  # alone: several entries are written in any order
        write_whole(folder / SOURCES, lambda path: save_file(from_sources, path, metadata=of))
        written.append(SOURCES)
    else:
        (folder / SOURCES).unlink(missing_ok=True)
    write_json(folder / CONFIG, config)
    if tokenizer is not None:
        written += [Path(path).name for path in tokenizer.save_pretrained(folder) if Path(path).parent == folder]
    own = (__version__, LoRA.name if plain else method.name, adapter.base_fingerprint, adapter.base_rows)
    about = dict(zip(_OWN, own, strict=True)) | (provenance or {})
    write_json(folder / PROVENANCE, seal.sealed(about, folder, written))


def load(model: nn.Module, folder: str | Path, name: str = "default") -> Adapter:
    """Attach the adapter saved in `folder` (or in the run's folder that holds it) and make it the active one.

    Raises CheckpointError, having changed nothing, if the files are damaged, do not fit the model, or were made on
    another base model.
    """
    return attach_saved(model, read(Path(folder)), name)


@dataclass(frozen=True)
class Saved:
    """An adapter's files, read whole and known to be as they were written."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


def read(folder: Path) -> Saved:
    """The adapter in `folder`, or in the run's folder that holds it. Raises CheckpointError if a file is damaged."""
    folder = adapter_folder(folder)
    seal.check(folder)
    return Saved(folder, read_config(folder), read_tensors(folder), read_provenance(folder))


def attach_saved(model: nn.Module, saved: Saved, name: str = "default") -> Adapter:
    """Do what `load` does with an adapter that was read."""
    adapter, state = match(model, saved.config, saved.tensors, name)
    check_base(saved.folder, model, adapter.base_fingerprint)
    check_rows(saved.folder, model, adapter.base_rows)
    commit(adapter)
    adapter.load_state_dict(state)
    return adapter


def start_from(adapter: Adapter, folder: Path) -> None:
    """Give the attached adapter, but for its heads, the tensors saved in `folder` by the same method.

    Raises CheckpointError, having changed nothing, if they do not fit.
    """
    saved = read(folder)
    folder = saved.folder
    config, tensors = experts_peft.in_own_form(adapter.model, saved.config, saved.tensors)
    tensors = adapter.method.from_peft_tensors(config, tensors)
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

    Works on a model of the meta device too. Raises CheckpointError if one does not fit the other, or if that takes more
    time or memory to tell than an adapter with these tensors needs. Nothing is fetched.
    """
    with guarded(CONFIG, "settings", todo="copy the adapter again"), expressions.limited(), offline():
        with Bounded(tensors):
            return _matched(model, config, tensors, name)


def _matched(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], name: str
) -> tuple[Adapter, dict[str, Tensor]]:
    asked = config
    config, tensors = renamed(model, config, without_doubles(tensors))
    config, tensors = experts_peft.in_own_form(model, config, tensors, asked)
    config = of_embeddings(model, config, tensors)
    heads = saved_whole(model, config, tensors)
    if "" in task_heads(model) and any(f"{PREFIX}{name}" in tensors for name in model._parameters):
        heads = ("", *heads)  # parameters of the model itself, which no module's name stands for
    part = config.get("part")
    sites = Sites(model, heads, part)
    hosts = [name for name, _ in Sites(model, ()).modules() if name and not sites.in_head(name)]
    method = method_of(for_modules(config, hosts)).of_tensors(tensors)
    try:
        adapter = plan_attach(model, method, name, heads=heads, part=part)
    except TargetError as problem:
        said = str(problem)
        said = said if len(said) <= 1000 else f"{said[:1000]}…"
        raise CheckpointError(
            f"{CONFIG}, {config['peft_type']} read as {method.name}, does not fit {type(model).__name__}: {said}"
        ) from None
    tensors = method.from_peft_tensors(config, tensors)

    placed = _placed(adapter)
    shown = _computed(adapter)[0]
    tensors = without_copies(adapter, {k: t for k, t in tensors.items() if k not in shown or k in placed}, placed)
    state = method.from_base(adapter)
    state |= {placed[key][0] if key in placed else key: tensor for key, tensor in tensors.items()}
    adapter.check_fits(state := _with_statistics(adapter, state))
    for host, module, delta in adapter.hosts():
        delta.check_saved(host, {part: state[k] for part in delta.saved(module) if (k := f"{host}.{part}") in state})
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


def _task_type(model: Any) -> str | None:
    kind = type(model).__name__
    if task := next((task for task, names in _TASKS.items() if kind in _flat(names.values())), None):
        return task
    if kind not in _flat(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()):
        return None
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"  # it writes text


def _flat(names: Any) -> set[str]:
    return {n for name in names for n in ((name,) if isinstance(name, str) else name)}
