"""What a run says of its adapter in provenance.json: of the right kind, or an error before anything relies on it."""

from pathlib import Path
from typing import Any

from ..data.settings import DataSettings
from ..errors import CheckpointError, SettingsError
from ..formats.places import PLACES
from ..formats.read import guarded
from ..formats.seal import PROVENANCE
from ..tasks import TASKS
from ..tasks.facts import COLUMNS, COUNT, PATHS, Fact, one_of

_KINDS = {
    "model": Fact(lambda value: isinstance(value, str) and bool(value), "the name of a model"),
    "task": Fact(lambda value: isinstance(value, str), "the name of a task"),
    "seed": Fact(lambda value: isinstance(value, int) and 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
    "max_length": COUNT,
    "dtype": one_of("float32", "bfloat16", "float16"),
    "quantize": one_of("none", "nf4"),
    "stream": Fact(lambda value: isinstance(value, bool), "true or false"),
    "columns": COLUMNS,
    "data": Fact(lambda value: isinstance(value, dict), "settings by name"),
    PLACES: PATHS,
}
_NEEDED = ("model", "seed", "max_length", "dtype")


def check_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Raise CheckpointError if what is there cannot be, or if of a run's adapter something is missing."""
    path, name = folder / PROVENANCE, provenance.get("task")
    task = TASKS[name] if isinstance(name, str) and name in TASKS else None
    for key, fact in [*_KINDS.items(), *(task.facts.items() if task else ())]:
        if key in provenance and not fact.fits(provenance[key]):
            found = str(provenance[key])[:200]
            raise CheckpointError(f"{path}: {key} is {found!r}; it must be {fact.kind}; copy it again")
    for key in (*_NEEDED, *task.facts) if task else ():
        if key not in provenance:
            raise CheckpointError(f"{path}: {key} is missing, which every run writes; copy it again")
    if task and (lacking := [role for role in task.roles if role not in provenance.get("columns", task.roles)]):
        raise CheckpointError(f"{path}: columns has no {lacking[0]}, which this task reads; copy it again")
    if "data" in provenance:
        with guarded(path, "settings of data"):
            try:
                settings = DataSettings(**provenance["data"])
            except SettingsError as problem:  # which tells a user what was meant, and nobody has typed this
                raise TypeError(str(problem)) from None
            rows = (settings.train_rows, settings.eval_rows)
            texts = (settings.path, *settings.named_columns().values())
            if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int | None) for n in rows):
                raise TypeError("a path, a column or a number of rows is of another kind")
