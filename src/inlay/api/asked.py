"""Settings from keyword arguments."""

import dataclasses
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..core.method import Method
from ..data.settings import DataSettings, Reading
from ..elsewhere import SETTINGS
from ..errors import SettingsError, unknown_names
from ..methods import METHODS
from ..names import listed
from ..training.settings import Recipe
from .given_data import ROWS, GivenData

SHORT_FOR: dict[str, tuple[str, dict[str, Literal["nf4"]]]] = {"qlora": ("lora", {"quantize": "nf4"})}
"""Names of a method with a setting of the run."""

_OF_DATA = {field.name for field in fields(DataSettings)} - {"path"}
RecipeT = TypeVar("RecipeT", bound=Recipe)


def settings_of(kind: type[RecipeT], model: str, data: DataSettings | GivenData, values: dict[str, Any]) -> RecipeT:
    """Build the settings; those of the data stand among the others. Raises SettingsError for one that is unknown."""
    known = {field.name for field in fields(kind)} - {"model", "data"} | _OF_DATA
    if unknown := [name for name in values if name not in known]:
        raise SettingsError("\n".join(_unknown(unknown, values.get("method"), known)))
    of_data = {name: value for name, value in values.items() if name in _OF_DATA}
    if isinstance(data, GivenData):
        data = DataSettings(path=ROWS if data.own else data.path, **of_data)
    elif of_data:
        data = replace(data, **of_data)
    others: dict[str, Any] = {name: value for name, value in values.items() if name not in _OF_DATA}
    if isinstance(others.get("out"), Path):
        others["out"] = str(others["out"])
    return kind(model=model, data=data, **others)


def _unknown(names: list[str], method: Any, known: set[str]) -> Iterator[str]:
    """Say of settings of the method where they belong, and of the others which were meant."""
    own = {field.name for field in fields(method)} if dataclasses.is_dataclass(method) else ()
    if of_method := [name for name in names if name in own]:
        are, them = ("are settings", "them") if len(of_method) > 1 else ("is a setting", "it")
        given = ", ".join(f"{name}=…" for name in of_method)
        yield (f"{listed(of_method, 'and')} {are} of the method; give {them} there: {type(method).__name__}({given})")
    if others := [name for name in names if name not in own]:
        yield unknown_names("unknown setting", others, known, SETTINGS)


def reading_of(values: dict[str, object]) -> Reading:
    """Take what says how rows are read, such as `text="Message"`, out of the values."""
    return replace(
        Reading(), **{field.name: values.pop(field.name) for field in fields(Reading) if field.name in values}
    )


def with_rows_in(settings: RecipeT, folder: Path) -> RecipeT:
    """Return the settings of a run or a comparison in this folder, which keeps the rows that were given in Python."""
    return replace(settings, out=str(folder), data=replace(settings.data, path=str(folder / ROWS)))


def named_method(asked: str | Method) -> tuple[Method, dict[str, Literal["nf4"]]]:
    """Take a method, or a name for one with its defaults; returns the settings of the run that the name stands for,
    too. Raises SettingsError for what is neither."""
    if isinstance(asked, str):
        name, implied = SHORT_FOR.get(asked, (asked, {}))
        return METHODS.find(name, also=SHORT_FOR)(), implied
    if not isinstance(asked, Method):
        what = f"the class {asked.__name__}" if isinstance(asked, type) else f"a {type(asked).__name__}"
        raise SettingsError(f"the method is {what}; give a name, or a method such as inlay.LoRA(rank=8)")
    return asked, {}
