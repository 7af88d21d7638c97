"""The task that an opened adapter was trained for, with data to evaluate it on."""

from dataclasses import replace

from ..data.classification import load_classification
from ..data.generation import load_generation
from ..data.settings import DataSettings
from ..errors import SettingsError
from ..training.causal import Causal
from ..training.classify import Classify
from ..training.task import Task
from .opened import Found


def evaluation_task(found: Found, path: str | None = None) -> Task:
    """The data is the run's own, or that in `path` with the same columns. Raises DataError if it cannot be read, and
    SettingsError if its labels are others."""
    trained = found.provenance
    settings = DataSettings(**trained.get("data", {"path": path or ""}))
    if path is not None:
        settings = replace(settings, path=path)
    if found.classifies:
        data = load_classification(settings)
        if data.labels != tuple(trained["labels"]):
            raise SettingsError(
                f"{data.source} has the labels {', '.join(data.labels[:8])}; the adapter was trained on "
                f"{', '.join(trained['labels'][:8])}"
            )
        task: Task = Classify(found.base, data, found.tokenizer, found.config)
    else:
        task = Causal(found.base, load_generation(settings), found.tokenizer, found.config, samples=0)
    task.tokenize(trained["max_length"])
    return task
