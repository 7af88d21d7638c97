"""Which values a setting may have, said where the setting is declared and checked for all settings in one way.

    rank: Annotated[int, Range(1, 65_536)] = 16

The limits above are no advice: they are where a value is surely a slip, or would take a machine's memory.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from .elsewhere import SETTINGS, VALUES
from .errors import SettingsError, did_you_mean, unknown_names


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, each included, or not where `above` or `below` takes its place."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def missed_by(self, value: float) -> str:
        """Return where the value should have been: the whole range if it is a share, else the side on which it lies."""
        low = f"at least {_limit(self.least)}" if self.least is not None else f"above {_limit(self.above)}"
        high = f"at most {_limit(self.most)}" if self.most is not None else f"below {_limit(self.below)}"
        if 1 in (self.most, self.below) or value in (math.inf, -math.inf) or value != value:
            return f"{low} and {high}"
        is_low = value < self.least if self.least is not None else self.above is not None and value <= self.above
        return low if is_low else high


SHARE = Range(0, below=1)
SEED = Range(0, 2**32 - 1)  # what every library's generator takes
RANK = Range(1, 65_536)
FLOAT = 1e38  # float32 has little more; what is too much for training is told when it comes to that
FACTOR = Range(-FLOAT, FLOAT)
WEIGHT = Range(0, 1_000_000)
RATIO = Range(above=0, most=1_000_000)
COUNT = Range(1, 1_000_000)
ROWS = Range(1, 1_000_000_000_000)
TOKENS = Range(1, 100_000)


class Settings:
    """A dataclass of settings, which answers an unknown one with the name that was meant."""

    def __new__(cls, *_: object, **values: object) -> Self:
        """Raise SettingsError for a setting that the class does not have, also one that other tools call so."""
        taken = signature(cls.__init__).parameters
        if not any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
            known = [name for name in taken if name != "self"]
            if unknown := [name for name in values if name not in known]:
                raise SettingsError(unknown_names(f"{cls.__name__} has no setting", unknown, known, SETTINGS))
        return super().__new__(cls)


_LEAST_BYTES = 1_000_000  # that can be meant by a number without a unit


def bytes_asked(text: str | None) -> int | None:
    """Read an amount of memory: `8GB`, `3.5 GiB`, `500m`; powers of 1024 with an i. Raises SettingsError."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE | re.ASCII)
    if found is None or not (amount := float(found[1])):
        raise SettingsError(f"memory is {text!r}, which is no amount; write it as 8GB or 500MiB")
    if amount < _LEAST_BYTES and text.strip()[-1].isdigit():
        raise SettingsError(f"memory is {text!r}, which has no unit; write it as {text.strip()}GB or {text.strip()}MiB")
    return round(amount * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def check_settings(settings: object, prefix: str = "") -> None:
    """Raise SettingsError for the first field whose value is of another type than declared, or out of its range."""
    for name, kind in _declared(type(settings)):
        problem = _problem(getattr(settings, name), kind)
        if problem is not None:
            raise SettingsError(f"{prefix}{name} {problem}")


def given_otherwise(settings: object) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield each field that takes several values and was given one text, or a list, with the tuple that is meant."""
    for name, kind in _declared(type(settings)):
        value = getattr(settings, name)
        if kind.several == "list" and isinstance(value, str | list):
            yield name, (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Kind:
    """What a field takes: None or not, one value, a list or pairs of a name and a value, of which type and range."""

    type: object
    choices: tuple[object, ...]
    range: Range | None
    several: Literal["", "list", "pairs"]
    optional: bool


_SEVERAL: Mapping[object, Literal["list", "pairs"]] = {tuple: "list", dict: "pairs"}


@cache
def _declared(settings: type) -> list[tuple[str, Kind]]:
    kinds = ((field.name, kind_of(field.type)) for field in dataclasses.fields(settings))
    return [(name, kind) for name, kind in kinds if kind.type is not None]


def kind_of(declared: object) -> Kind:
    """Return what a field of the declared type takes; of type None if it is no number, text, choice or yes and no."""
    found = next((extra for extra in getattr(declared, "__metadata__", ()) if isinstance(extra, Range)), None)
    if get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    optional = get_origin(declared) in (Union, UnionType) and type(None) in get_args(declared)
    if optional:
        others = [each for each in get_args(declared) if each is not type(None)]
        declared = others[0] if len(others) == 1 else None
    several: Literal["", "list", "pairs"] = _SEVERAL.get(get_origin(declared), "")
    if several:
        declared = [each for each in get_args(declared) if each is not ...][-1]
    if get_origin(declared) is Literal:
        return Kind(Literal, get_args(declared), None, several, optional)
    return Kind(declared if declared in (int, float, bool, str) else None, (), found, several, optional)


def problem_of_text(text: str, kind: Kind) -> str | None:
    """Return what is wrong with one value as it is written, as it goes on after the setting's name."""
    value: object = text
    with suppress(ValueError):
        value = int(text) if kind.type is int else float(text) if kind.type is float else text
    return _problem_of_one(value, kind)


def _problem(value: object, kind: Kind) -> str | None:
    """Return what is wrong with the value, as it goes on after the setting's name."""
    if value is None and kind.optional:
        return None
    if not kind.several:
        return _problem_of_one(value, kind)
    if isinstance(value, dict):
        found = ((f"of {key!r} ", _problem_of_one(each, kind)) for key, each in value.items())
    elif isinstance(value, list | tuple):
        found = (("", _problem_of_one(each, kind)) for each in value)
    else:
        return None if isinstance(value, str) else f"is {value!r}; it takes several values"
    return next((where + problem for where, problem in found if problem is not None), None)


def _problem_of_one(value: object, kind: Kind) -> str | None:
    if kind.type is Literal:
        if value in kind.choices:
            return None
        return f"is {value!r}{did_you_mean(str(value), map(str, kind.choices), VALUES)}"
    if kind.type is bool:
        return None if isinstance(value, bool) else f"is {value!r}; it must be true or false"
    if kind.type is str:
        if not isinstance(value, str):
            return f"is {value!r}; it must be a text"
        return f"is {value!r}; it cannot have a NUL" if "\0" in value else None
    needed, what = (numbers.Integral, "a whole number") if kind.type is int else (numbers.Real, "a number")
    if not isinstance(value, needed) or isinstance(value, bool):
        return f"is {value!r}; it must be {what}"
    number: Any = value
    if kind.range is None or number in kind.range:
        return None
    return f"is {_shown(number)}; it must be {kind.range.missed_by(number)}"


def _shown(value: object) -> str:
    return "a number of very many digits" if isinstance(value, int) and abs(value) >= 10**30 else str(value)


def _limit(limit: float | None) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:.3g}"
