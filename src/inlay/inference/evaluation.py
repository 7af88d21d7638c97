"""What an adapter is evaluated on: the data of its run, or others with the same columns."""

from dataclasses import fields, replace
from typing import Any

from ..data.classification import ClassificationData, Learned, classification_in
from ..data.formats import open_data
from ..data.generation import generation_in
from ..data.settings import DataSettings
from ..errors import DataError, SettingsError
from ..hub import offline
from ..tasks.causal import Causal
from ..tasks.classify import Classify
from ..tasks.task import Task
from .assumed import names_nothing
from .opened import Found

SCORED = "valid"
"""The split that the rows of a file are put into, which is in no splits."""


def evaluation_data(
    provenance: dict[str, Any], kind: str | None, path: str | None = None, *, fetch: bool = False
) -> Any:
    """The adapter's own, or those in `path`, for a task of this kind.

    All rows in `path` are there to be scored: nothing is held out, and a label need not occur. Rows of a file are in
    the split valid. What only the adapter's files name is not fetched without `fetch`. Raises DataError if they cannot
    be read, or for a label that was not learned.
    """
    settings = _settings(provenance, path)
    fetch = fetch or path is not None
    try:
        with offline(not fetch):
            opened = open_data(settings, fetch=fetch, train=path is None)
    except DataError as problem:
        if path is None:
            problem = DataError(f"{problem}; these are the data of the adapter's own run: name them, or others")
        raise problem from None
    whole = path is not None
    if kind == "causal":
        data: Any = generation_in(opened, whole)
    else:
        names = provenance.get("labels")
        if names is None:
            data = classification_in(opened)
        else:
            learned = Learned(tuple(map(str, names)), names_nothing(tuple(names)), whole)
            data = classification_in(opened, learned)
    return data if opened.source.parted or not whole else replace(data, splits={SCORED: data.splits["train"]})


def _settings(provenance: dict[str, Any], path: str | None) -> DataSettings:
    if "data" not in provenance and path is None:
        raise SettingsError("the adapter does not say which data it was trained with; name the data to evaluate on")
    about: Any = provenance.get("data", {})
    own = {field.name for field in fields(DataSettings)}
    if not isinstance(about, dict) or not set(about) <= own or not all(_plain(value) for value in about.values()):
        raise SettingsError(
            "the adapter's provenance.json has settings of its data that this version does not know; take the entry "
            '"data" out of it, and name the data to evaluate on'
        )
    if path is None:
        if not isinstance(about.get("path"), str):
            raise SettingsError("the adapter does not say which data it was trained with; name the data to evaluate on")
        return DataSettings(**about)
    return DataSettings(**about | {"path": path, "train_rows": None, "eval_rows": None})


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def evaluation_task(found: Found, path: str | None = None, *, fetch: bool = False) -> Task:
    """The task that the adapter was trained for, on these data. Raises what `evaluation_data` raises."""
    kind = "classify" if found.classifies else "causal"
    data = evaluation_data(found.provenance, kind, path, fetch=fetch)
    if isinstance(data, ClassificationData):
        task: Task = Classify(found.base, data, found.tokenizer, found.config)
    else:
        task = Causal(found.base, data, found.tokenizer, found.config, samples=0)
    found.check_reads()
    task.tokenize(found.provenance["max_length"])
    task.check_tokens(found.planned.model)
    return task
