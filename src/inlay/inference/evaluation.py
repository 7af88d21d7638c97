"""What an adapter is evaluated on: the data of its run, or others with the same columns."""

from dataclasses import replace
from typing import Any

from ..data.classification import load_classification
from ..data.generation import load_generation
from ..data.settings import DataSettings
from ..errors import SettingsError
from ..training.causal import Causal
from ..training.classify import Classify
from ..training.task import Task
from .assumed import names_nothing
from .opened import Found


def evaluation_data(provenance: dict[str, Any], kind: str | None, path: str | None = None) -> Any:
    """The adapter's own, or those in `path`, for a task of this kind: ClassificationData or GenerationData. Raises
    DataError if they cannot be read, and SettingsError if their labels are others."""
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


def evaluation_task(found: Found, path: str | None = None) -> Task:
    """The task that the adapter was trained for, on these data. Raises what `evaluation_data` raises."""
    kind = "classify" if found.classifies else "causal"
    data = evaluation_data(found.provenance, kind, path)
    if kind == "classify":
        task: Task = Classify(found.base, data, found.tokenizer, found.config)
    else:
        task = Causal(found.base, data, found.tokenizer, found.config, samples=0)
    found.check_reads()
    task.tokenize(found.provenance["max_length"])
    task.check_tokens(found.planned.model)
    return task
