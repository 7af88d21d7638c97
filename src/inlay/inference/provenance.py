"""What a run says of its adapter in provenance.json: of the right kind, or an error before anything relies on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.generation import FORMS
from ..data.settings import DataSettings
from ..errors import CheckpointError
from ..formats.places import PLACES
from ..formats.read import guarded
from ..formats.seal import PROVENANCE

_DTYPES = ("float32", "bfloat16", "float16")


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(id, int) and 0 <= id < 2**31 for id in value)


def _one_of(*known: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in known


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda value: isinstance(value, str) and bool(value), "the name of a model"),
    "task": (lambda value: isinstance(value, str), "the name of a task"),
    "seed": (lambda value: isinstance(value, int) and 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
    "max_length": (_count, "a whole number above 0"),
    "room": (_count, "a whole number above 0"),
    "dtype": (_one_of(*_DTYPES), f"one of {', '.join(_DTYPES)}"),
    "quantize": (_one_of("none", "nf4"), "none or nf4"),
    "labels": (lambda value: _names(value) and len(set(value)) == len(value), "different texts"),
    "columns": (_texts_by_name, "names of columns by what they hold"),
    "format": (_one_of(*FORMS), f"one of {', '.join(FORMS)}"),
    "stop": (_ids, "numbers of tokens"),
    "data": (lambda value: isinstance(value, dict), "settings by name"),
    PLACES: (_texts_by_name, "paths by name"),
}
_NEEDED = {
    "classify": ("model", "seed", "max_length", "dtype", "labels"),
    "causal": ("model", "seed", "max_length", "dtype", "format", "stop", "room"),
}


def check_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Raises CheckpointError if what is there cannot be, or if of a run's adapter something is missing."""
    path = folder / PROVENANCE
    for key, (fits, kind) in _KINDS.items():
        if key in provenance and not fits(provenance[key]):
            raise CheckpointError(f"{path}: {key} is {str(provenance[key])[:200]!r}; it must be {kind}; copy it again")
    for key in _NEEDED.get(provenance.get("task", ""), ()):
        if key not in provenance:
            raise CheckpointError(f"{path}: {key} is missing, which every run writes; copy it again")
    if provenance.get("task") == "classify" and "text" not in provenance.get("columns", {"text": "text"}):
        raise CheckpointError(f"{path}: columns has no text, which a classifier reads; copy it again")
    if "data" in provenance:
        with guarded(path, "settings of data"):
            settings = DataSettings(**provenance["data"])
            rows = (settings.train_rows, settings.eval_rows)
            texts = (settings.path, *settings.named_columns().values())
            if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int | None) for n in rows):
                raise TypeError("a path, a column or a number of rows is of another kind")
