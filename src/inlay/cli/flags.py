"""The flags and arguments of a verb, as tyro makes them of its dataclass: for the help, and to say what is wrong."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, get_args, get_origin

from tyro.conf import Positional, Suppress

from ..field_texts import field_texts
from ..ranges import Kind, kind_of

_POSITIONAL, _SUPPRESS = get_args(Positional[str])[1], get_args(Suppress[str])[1]
# What stands for a text in the help, by the last part of its setting's name.
_TEXTS = {
    "out": "FOLDER", "retain": "FILE", "model": "MODEL", "method": "NAME", "with": "RUN", "data": "DATA",
    "text": "COLUMN", "text-pair": "COLUMN", "label": "COLUMN", "prompt": "COLUMN", "completion": "COLUMN",
    "device": "DEVICE", "memory": "SIZE", "recompute": "BLOCKS", "page": "FILE",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One setting on the command line; without dashes if it stands by itself."""

    setting: str
    """Its path, such as method.rank; of an argument that stands by itself, its field's."""
    kind: Kind
    default: object
    """MISSING if there must be a value."""
    text: str
    metavar: str
    positional: bool = False

    @property
    def is_switch(self) -> bool:
        return self.kind.type is bool and not self.kind.several

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def shown(self) -> str:
        """The flag itself: a switch is named as what it does."""
        if self.positional:
            return self.metavar
        group, dot, name = self.setting.replace("_", "-").rpartition(".")
        return f"--{group}{dot}{'no-' if self.is_switch and self.default is True else ''}{name}"

    @property
    def usage(self) -> str:
        """The flag with its value, as in `--epochs NUMBER`."""
        if self.positional or self.is_switch:
            return self.shown
        more = {"": "", "list": " …", "pairs": " …"}[self.kind.several]
        return f"{self.shown} {self.metavar}{more}"


def flags_of(command: object) -> list[Flag]:
    """List what the dataclass takes, in the order of its fields. It may be generic in the type of a nested one."""
    return list(_flags(command, ""))


def value_text(value: object) -> str:
    """Return a setting's value as on the command line."""
    match value:
        case None:
            return "automatic"
        case bool():
            return str(value).lower()
        case tuple():
            return " ".join(map(str, value)) or "none"
        case dict() | "":
            return str(value) if value else "none"
        case float():
            return f"{value:g}"
    return str(value)


def _flags(command: object, prefix: str) -> Iterator[Flag]:
    cls = get_origin(command) or command
    assert isinstance(cls, type)
    assert dataclasses.is_dataclass(cls)
    texts = field_texts(cls)
    for field in dataclasses.fields(cls):
        declared: object = get_args(command)[0] if isinstance(field.type, TypeVar) else field.type
        if isinstance(declared, str):  # a class that stands further below
            declared = vars(sys.modules[cls.__module__])[declared]
        extras: tuple[object, ...] = getattr(declared, "__metadata__", ())
        said: dict[str, object] = next((vars(extra) for extra in extras if hasattr(extra, "prefix_name")), {})
        whole = get_args(declared)[0] if extras else declared
        inner = get_origin(whole) or whole
        if _SUPPRESS in extras:
            continue
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _flags(whole, f"{prefix}{said.get('name') or field.name}.")
        else:
            yield _flag(field, declared, texts.get(field.name, ""), prefix, said, _POSITIONAL in extras)


def _flag(
    field: dataclasses.Field[object],
    declared: object,
    text: str,
    prefix: str,
    said: Mapping[str, object],
    positional: bool,
) -> Flag:
    kind, name = kind_of(declared), str(said.get("name") or field.name)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Flag(
        setting=name.replace("-", "_") if said.get("prefix_name") is False else prefix + name,
        kind=kind,
        default=default,
        text=text,
        metavar=str(said.get("metavar") or _metavar(name.replace("_", "-"), kind)).strip("[]"),
        positional=positional,
    )


def _metavar(name: str, kind: Kind) -> str:
    if kind.choices:
        choices = "|".join(map(str, kind.choices))
        return choices if len(choices) <= 24 else "NAME"
    value = {int: "N", float: "NUMBER"}.get(kind.type, _TEXTS.get(name, "TEXT"))  # pyright: ignore[reportArgumentType]
    return f"NAME {value}" if kind.several == "pairs" else value
