"""The names of a classifier's labels: an adapter's file has them, and a model without any takes them from there."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import nn

from ..core.state import state_of

Labels = tuple[str, ...]


class _Config(Protocol):
    """The configuration of a transformers model, as far as it is about labels."""

    id2label: dict[int, str] | None
    label2id: dict[str, int] | None


def label_names(model: nn.Module) -> Labels:
    """Return the labels of a classifier by their numbers; none if they have no names."""
    config = _config(model)
    names = tuple(str(name) for _, name in sorted((getattr(config, "id2label", None) or {}).items()))
    return () if names == _unnamed(len(names)) else names


def names_in(provenance: Mapping[str, object]) -> Labels:
    """Return the labels that an adapter's file names, if it does so; it may be from outside and say anything."""
    said = provenance.get("labels")
    names = said if isinstance(said, list) else []
    fit = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return tuple(names) if fit else ()


def name_labels(model: nn.Module, of_adapters: Iterable[Labels]) -> None:
    """Give labels without a name those of the adapters, as long as these agree, and else take such names away again."""
    state, config = state_of(model), _config(model)
    if config is None or not (count := len(getattr(config, "id2label", None) or {})):
        return
    if label_names(model) and not state.labels_are_named:
        return
    found = {names for names in of_adapters if len(names) == count}
    state.labels_are_named = len(found) == 1
    names = found.pop() if state.labels_are_named else _unnamed(count)
    if names != (label_names(model) or _unnamed(count)):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}


def _config(model: nn.Module) -> _Config | None:
    return getattr(model, "config", None)


def _unnamed(count: int) -> Labels:
    """Return what transformers calls labels without names."""
    return tuple(f"LABEL_{number}" for number in range(count))
