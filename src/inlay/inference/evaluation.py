"""What an adapter is evaluated on: the data of its run, or others with the same columns."""

import os
from dataclasses import replace
from typing import Any

from ..data.classification import load_classification
from ..data.generation import load_generation
from ..data.settings import DataSettings
from ..data.source import BUILTIN
from ..errors import SettingsError
from ..hub import offline
from ..training.causal import Causal
from ..training.classify import Classify
from ..training.task import Task
from .assumed import names_nothing
from .opened import Found


def evaluation_data(
    provenance: dict[str, Any], kind: str | None, path: str | None = None, *, fetch: bool = False
) -> Any:
    """The adapter's own, or those in `path`, for a task of this kind: ClassificationData or GenerationData. Raises
    DataError if they cannot be read, and SettingsError if their labels are others.

    Data that only the adapter's files name are taken from this machine, and from a hub only with `fetch`.
    """
    if path is None and not fetch:
        check_here(provenance)
    with offline(path is None and not fetch):
        return _data(provenance, kind, path)


def check_here(provenance: dict[str, Any]) -> None:
    """Raises SettingsError if the adapter names data that are not on this machine."""
    named = provenance.get("data", {}).get("path", BUILTIN)
    if not named.startswith(BUILTIN) and not os.path.exists(os.path.expanduser(named)):
        raise SettingsError(
            f"the adapter was trained with the data {named!r}, which are no file or folder here; name the data to "
            "evaluate on, or let them be fetched with --allow-download if they are on a hub"
        )


def _data(provenance: dict[str, Any], kind: str | None, path: str | None) -> Any:
    if "data" not in provenance and path is None:
        raise SettingsError("the adapter does not say which data it was trained with; name the data to evaluate on")
    settings = DataSettings(**provenance.get("data", {"path": path}))
    if path is not None:
        settings = replace(settings, path=path, train_rows=None, eval_rows=None)
    if kind == "causal":
        return load_generation(settings)
    data = load_classification(settings)
    learned = tuple(provenance.get("labels", data.labels))
    if names_nothing(learned) and data.labels == tuple(map(str, range(len(learned)))):
        return data
    if data.labels != learned:
        unnamed = (
            f", whose names nothing tells: write them as 0 to {len(learned) - 1}" if names_nothing(learned) else ""
        )
        raise SettingsError(
            f"{data.source} has the labels {', '.join(data.labels[:8])}; the adapter was trained on "
            f"{', '.join(learned[:8])}{unnamed}"
        )
    return data


def evaluation_task(found: Found, path: str | None = None, *, fetch: bool = False) -> Task:
    """The task that the adapter was trained for, on these data. Raises what `evaluation_data` raises."""
    kind = "classify" if found.classifies else "causal"
    data = evaluation_data(found.provenance, kind, path, fetch=fetch)
    if kind == "classify":
        task: Task = Classify(found.base, data, found.tokenizer, found.config)
    else:
        task = Causal(found.base, data, found.tokenizer, found.config, samples=0)
    found.check_reads()
    task.tokenize(found.provenance["max_length"])
    task.check_tokens(found.planned.model)
    return task
