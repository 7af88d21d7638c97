"""Attach what is saved: which of the methods a file is of, and its adapter with its tensors.

Reading is strict: every tensor has a place, every place a tensor, and a setting that would change the function and is
not known here is an error.
"""

from pathlib import Path

from torch import Tensor, nn

from .. import expressions
from ..attached.adapter import Adapter, adapters, plan_attach
from ..attached.labels import name_labels, names_in
from ..core.method import Method
from ..core.state import commit
from ..errors import CheckpointError, SettingsError, TargetError
from ..formats.bounded import Bounded
from ..formats.peft import Saved, check_base, check_rows, read
from ..formats.peft_config import CONFIG, PeftConfig, check_kinds, check_settings, for_modules
from ..formats.peft_format import METHOD_CLASS, computed, format_of, placed
from ..formats.peft_names import PREFIX, of_embeddings, renamed, saved_whole, without_copies, without_doubles
from ..formats.read import guarded
from ..hub import offline
from ..models import weights
from ..models.heads import task_heads
from ..models.sites import Sites
from . import METHODS

_SELECTING = frozenset({"layers_to_transform", "exclude_modules", "layers_pattern"})


def load(model: nn.Module, folder: str | Path, name: str = "default") -> Adapter:
    """Attach the adapter saved in `folder` (or in the run's folder that holds it) and make it the active one.

    A classifier whose labels have no names takes them from the adapter, for as long as it is attached.

    Raises CheckpointError, having changed nothing, if the files are damaged, do not fit the model, or were made on
    another base model.
    """
    return attach_saved(model, read(Path(folder)), name)


def attach_saved(model: nn.Module, saved: Saved, name: str = "default") -> Adapter:
    """Do what `load` does with an adapter that was read."""
    adapter, state = match(model, saved, name)
    check_base(saved.folder, model, adapter.base_fingerprint)
    check_rows(saved.folder, model, adapter.base_rows)
    commit(adapter)
    adapter.load_state_dict(state)
    adapter.labels = names_in(saved.provenance)
    name_labels(model, [each.labels for each in adapters(model).values()])
    return adapter


def start_from(adapter: Adapter, folder: Path) -> None:
    """Give the attached adapter, but for its heads, the tensors saved in `folder` by the same method.

    Raises CheckpointError, having changed nothing, if they do not fit.
    """
    saved, method = read(folder), adapter.method
    config, tensors = format_of(method).in_own_form(adapter.model, saved.config, saved.tensors, saved.config)
    tensors = format_of(method).read_tensors(method, config, tensors)
    sites = Sites(adapter.model, adapter.heads)
    places = {key: own for key, (own, _) in placed(adapter).items() if not sites.in_head(own)}
    if missing := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(
            f"{saved.folder} has no {missing[0]}, which {method.name} trains here: it was made by another method"
        )
    adapter.load_state_dict(adapter.state_dict() | {own: tensors[key] for key, own in places.items()})


def match(model: nn.Module, saved: Saved, name: str = "default") -> tuple[Adapter, dict[str, Tensor]]:
    """Find the adapter that the files describe, not yet in the model, with its tensors under their own names.

    Works on a model of the meta device too. Raises CheckpointError if one does not fit the other, or if that takes more
    time or memory to tell than an adapter with these tensors needs. Nothing is fetched.
    """
    kind = _kind(saved)
    with guarded(CONFIG, "settings", todo="copy the adapter again"), expressions.limited(), offline():
        with Bounded(saved.tensors):
            return _matched(model, kind, saved.config, saved.tensors, name)


def _kind(saved: Saved) -> type[Method]:
    """Find the class of the method. A file from outside may name a class that this process does not know yet, which is
    imported unless it is in the adapter's own folder: an adapter brings no code."""
    if kind := next((kind for kind in METHODS.values() if format_of(kind).reads(saved.config)), None):
        return kind
    reference = saved.provenance.get(METHOD_CLASS)
    if isinstance(reference, str):
        run = saved.folder.parent if (saved.folder.parent / "run.yaml").is_file() else saved.folder
        try:
            kind = METHODS.find(reference, outside=run)
        except SettingsError as problem:
            raise CheckpointError(f"{saved.folder} was made by a method that is not part of Inlay: {problem}") from None
        if format_of(kind).reads(saved.config):
            return kind
    known = ", ".join(sorted({kind.format.peft_type for kind in METHODS.values()}))
    raise CheckpointError(f"{CONFIG}: no method here reads peft_type {saved.config['peft_type']}; known: {known}")


def _matched(
    model: nn.Module, kind: type[Method], config: PeftConfig, tensors: dict[str, Tensor], name: str
) -> tuple[Adapter, dict[str, Tensor]]:
    asked, form = config, format_of(kind)
    config, tensors = renamed(model, config, without_doubles(tensors))
    config, tensors = form.in_own_form(model, config, tensors, asked)
    config = of_embeddings(model, config, tensors)
    heads = saved_whole(model, config, tensors, own_words=form.in_own_words(config["peft_type"]))
    if "" in task_heads(model) and any(f"{PREFIX}{name}" in tensors for name in model._parameters):
        heads = ("", *heads)  # parameters of the model itself, which no module's name stands for
    part = config.get("part")
    sites = Sites(model, heads, part)
    hosts = [name for name, _ in Sites(model, ()).modules() if name and not sites.in_head(name)]
    method = form.of_tensors(_method(kind, for_modules(config, hosts)), tensors)
    form = format_of(method)
    try:
        adapter = plan_attach(model, method, name, heads=heads, part=part)
    except TargetError as problem:
        said = str(problem)
        said = said if len(said) <= 1000 else f"{said[:1000]}…"
        raise CheckpointError(
            f"{CONFIG}, {config['peft_type']} read as {method.name}, does not fit {type(model).__name__}: {said}"
        ) from None
    tensors = form.read_tensors(method, config, tensors)

    places = placed(adapter)
    shown = computed(adapter)[0]
    tensors = without_copies(adapter, {k: t for k, t in tensors.items() if k not in shown or k in places}, places)
    state = form.from_base(method, adapter)
    state |= {places[key][0] if key in places else key: tensor for key, tensor in tensors.items()}
    adapter.check_fits(state := _with_statistics(adapter, state))
    for host, module, delta in adapter.hosts():
        delta.check_saved(host, {part: state[k] for part in delta.saved(module) if (k := f"{host}.{part}") in state})
    return adapter, state


def _method(kind: type[Method], config: PeftConfig) -> Method:
    """Build the method that `config` describes. Raises CheckpointError if a setting cannot be read."""
    form = format_of(kind)
    try:
        method = form.read(kind, config)
    except KeyError as key:
        raise CheckpointError(f"{CONFIG}: {key.args[0]} is missing") from None
    except (SettingsError, TypeError) as problem:
        raise CheckpointError(f"{CONFIG}: a setting has a value that it cannot have: {problem}") from None
    check_kinds(method)
    if form.known is not None and not form.in_own_words(config["peft_type"]):  # of which `read` has seen every key
        check_settings(config, form.known | _SELECTING)
    return method


def _with_statistics(adapter: Adapter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the base's running statistics to `state`, if it has none at all: Inlay did not always save them."""
    own = {
        f"{name}.{part}" if name else part: tensor
        for name, host, delta in adapter.hosts()
        for part, tensor in delta.saved(host).items()
        if part in weights.statistics(host)
    }
    return state if own.keys() & state.keys() else own | state
