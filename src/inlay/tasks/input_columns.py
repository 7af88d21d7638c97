"""The columns of rows to answer: named by the user, those of the training, or found as those of rows to learn are."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..data.columns import find_column
from ..data.formats import find_inputs
from ..data.inputs import InputRows
from ..data.settings import DataSettings
from ..errors import SettingsError

if TYPE_CHECKING:
    from .task import Task


def input_columns(
    task: "Task", found: InputRows, known: Mapping[str, str], may_name: Collection[str], roles: Collection[str]
) -> dict[str, str]:
    """Return the columns of the inputs, by role: those that their reading names, else those that are `known`. Where
    these are not there, the ones that evaluating the file would find by their names, among `roles`.

    Raises SettingsError if one is named for a role that is none of `may_name`.
    """
    reading, named = found.reading, found.reading.named_columns()
    if wrong := next((role for role in named if role not in may_name), None):
        takes = " and ".join(f"data.{role}" for role in may_name)
        raise SettingsError(f"data.{wrong} is no input of this adapter, which {task.does}; it takes {takes}")
    if reading.format != "auto":
        raise SettingsError(f"data.format is {reading.format!r}, but inputs have the columns of the training alone")
    if named or found.plain or all(find_column(column, found.columns) for column in known.values()):
        return {**known, **named}
    of_run = DataSettings(**task.about["data"]).named_columns() if "data" in task.about else {}
    by_name = find_inputs(task.formats, of_run, found.columns)
    inputs = {role: column for role, column in by_name.items() if role in roles}
    return inputs if len(inputs) == len(known) else dict(known)
