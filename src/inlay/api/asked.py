"""Settings from keyword arguments, and the task that they describe, with its data read."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..bases.base import Base, find_base
from ..core.method import Method
from ..data.formats import open_data
from ..data.settings import DataSettings
from ..errors import SettingsError, did_you_mean
from ..tasks import task_for
from ..tasks.task import Task
from ..training.settings import Recipe, RunSettings
from .given_data import ROWS, GivenData

_OF_DATA = {field.name for field in fields(DataSettings)} - {"path"}
RecipeT = TypeVar("RecipeT", bound=Recipe)


def settings_of(kind: type[RecipeT], model: str, data: DataSettings | GivenData, values: dict[str, Any]) -> RecipeT:
    """Build the settings; those of the data stand among the others. Raises SettingsError for one that is unknown."""
    known = {field.name for field in fields(kind)} - {"model", "data"} | _OF_DATA
    if unknown := next((name for name in values if name not in known), None):
        raise SettingsError(f"unknown setting {unknown}{did_you_mean(unknown, known)}")
    of_data = {name: value for name, value in values.items() if name in _OF_DATA}
    if isinstance(data, GivenData):
        data = DataSettings(path=ROWS if data.own else data.path, **of_data)
    elif of_data:
        data = replace(data, **of_data)
    others: dict[str, Any] = {name: value for name, value in values.items() if name not in _OF_DATA}
    if isinstance(others.get("out"), Path):
        others["out"] = str(others["out"])
    return kind(model=model, data=data, **others)


def with_rows_in(settings: RecipeT, folder: Path) -> RecipeT:
    """Return the settings of a run or a comparison in this folder, which keeps the rows that were given in Python."""
    return replace(settings, out=str(folder), data=replace(settings.data, path=str(folder / ROWS)))


def read_task(settings: RunSettings[Method], given: GivenData, base: Base | None) -> Task:
    """Read the data from where they are now, for the settings that say where they will be, on the base that is given or
    that the settings name."""
    base = base or find_base(settings.model)
    opened = replace(open_data(replace(settings.data, path=given.path)), settings=settings.data)
    return task_for(opened).prepare(base, opened, settings)
