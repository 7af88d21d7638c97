"""run.yaml: the settings of a run in a file, read strictly and with its line numbers.

A value is taken as it is written, as on the command line: `08` is 08 and `no` is the text no where a text is asked for.
It is never taken for a flag.
"""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..core.method import Method
from ..data.settings import DataSettings
from ..elsewhere import SETTINGS
from ..errors import SettingsError, did_you_mean
from ..names import meant, no_setting
from ..ranges import Kind, kind_of
from ..training.settings import RunSettings

_SHORT = {"data": "data.path", "method": "method.name"}  # `data: FILE`, `method: lora`
_NEGATIVE = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class ConfigFile:
    path: Path
    values: dict[str, yaml.Node]  # by dotted name
    lines: dict[str, int]

    @property
    def method(self) -> str | None:
        node = self.values.get("method.name")
        return None if node is None else _text(f"{self.path}:{self.lines['method.name']}", "method", node)

    def arguments(self, method: type[Method]) -> list[str]:
        """Return the settings as the command line has them. Raises SettingsError for an unknown one, with its line."""
        fields = {f.name: f for f in dataclasses.fields(RunSettings) if f.name not in ("data", "method")}
        fields |= {f"data.{f.name}": f for f in dataclasses.fields(DataSettings)}
        own = {f.name: f for f in dataclasses.fields(method)}
        fields |= {f"method.{name}": f for name, f in own.items()}
        known = {*fields, "method.name"}
        if unknown := [name for name in self.values if name not in known]:
            raise SettingsError("\n".join(self._unknown(name, known, method, own) for name in unknown))
        flags, positional = [], []
        for name, node in self.values.items():
            where = f"{self.path}:{self.lines[name]}"
            if name in ("model", "data.path"):
                positional.append(_no_flag(where, name, _text(where, name, node)))
            elif name != "method.name":
                flags += arguments_of(where, name, node, fields[name])
        return [*positional, *flags]  # after a flag that takes any number of values they would be more of those

    def _unknown(self, name: str, known: Collection[str], method: type[Method], of_method: Collection[str]) -> str:
        where = f"{self.path}:{self.lines[name]}"
        if name.startswith("method.") and not meant(name, known, SETTINGS):
            return f"{where}: {no_setting(method.name, name.removeprefix('method.'), of_method)}"
        return f"{where}: unknown setting {name}{did_you_mean(name, known, SETTINGS)}"


def read_config_file(path: Path) -> ConfigFile:
    """Raise SettingsError if the file is missing, no YAML mapping, or has a setting twice."""
    from ..formats.read import read_text

    root = parse_yaml(read_text(path, "a file of settings", error=SettingsError), str(path))
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path}: a run's settings are a mapping, such as `model: builtin:minilm`")
    values: dict[str, yaml.Node] = {}
    lines: dict[str, int] = {}
    _flatten(path, root, "", values, lines)
    return ConfigFile(path, values, lines)


def parse_yaml(text: str, where: str) -> yaml.Node | None:
    """Return the text as plain YAML. Raises SettingsError if it is none, or has tags, anchors or aliases."""
    try:
        return _Loader(text, where).get_single_node()
    except RecursionError:
        raise SettingsError(f"{where}: nested too deeply for settings") from None
    except (yaml.YAMLError, ValueError, OverflowError) as problem:  # the latter: a letter of a number that none has
        if isinstance(problem, SettingsError):
            raise
        raise SettingsError(f"{where}: not YAML: {' '.join(str(problem).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML whose values stand where they are written."""

    def __init__(self, text: str, where: str):
        super().__init__(text)
        self._where = where

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if (anchor := getattr(event, "anchor", None)) is not None:
            self._refuse(event, f"anchor or alias {anchor!r}", "write the value itself")
        if (tag := getattr(event, "tag", None)) is not None:
            self._refuse(event, f"tag {tag!r}", "leave it out; a setting has one type")
        return super().compose_node(parent, index)

    def _refuse(self, event: yaml.Event, what: str, do: str) -> None:
        raise SettingsError(f"{self._where}:{event.start_mark.line + 1}: settings have no {what}; {do}")


def _flatten(
    path: Path, node: yaml.MappingNode, prefix: str, values: dict[str, yaml.Node], lines: dict[str, int]
) -> None:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _text(f"{path}:{line}", "the name of a setting", key_node).replace("-", "_")
        name = f"{prefix}.{key}" if prefix else key
        nested = isinstance(value_node, yaml.MappingNode) and name in _SHORT
        short = name if nested else _SHORT.get(name, name)
        if short in lines:
            raise SettingsError(f"{path}:{line}: {name} is set in line {lines[short]} already")
        lines[short] = line
        if nested:
            _flatten(path, value_node, key, values, lines)
        else:
            values[short] = value_node


def arguments_of(where: str, name: str, node: yaml.Node, field: dataclasses.Field[object]) -> list[str]:
    """Return a setting as the command line has it. Raises SettingsError if the value has not the form of
    the setting.
    """
    option, kind = "--" + name.replace("_", "-"), kind_of(field.type)
    if _is_null(node):
        if field.default is not None and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: {name} has no value; give one, or leave the setting out")
        return []
    if isinstance(node, yaml.ScalarNode):
        if kind.type is bool and not kind.several:
            return _switch(where, name, node, field.default)
        if kind.several != "pairs":
            return [f"{option}={node.value}"]
    if isinstance(node, yaml.SequenceNode) and kind.several == "list":
        return [option, *(_no_flag(where, name, _text(where, name, each)) for each in node.value)]
    if isinstance(node, yaml.MappingNode) and kind.several == "pairs":
        pairs = (each for pair in node.value for each in pair)
        return [option, *(_no_flag(where, name, _text(where, name, each)) for each in pairs)]
    raise SettingsError(f"{where}: {name} is {_form(node)}; it takes {_wanted(kind)}")


def _switch(where: str, name: str, node: yaml.ScalarNode, default: object) -> list[str]:
    """Return the flag that turns it on or off; none if it is so by default."""
    if node.tag != "tag:yaml.org,2002:bool":
        raise SettingsError(f"{where}: {name} is {node.value!r}; it must be true or false")
    value = yaml.SafeLoader.bool_values[node.value.lower()]
    if value == default:
        return []
    group, dot, setting = name.replace("_", "-").rpartition(".")
    return [f"--{group}{dot}{'' if value else 'no-'}{setting}"]


def _text(where: str, name: str, node: yaml.Node) -> str:
    """Return the value as it is written. Raises SettingsError if there is none, or more than one."""
    if not isinstance(node, yaml.ScalarNode) or _is_null(node):
        raise SettingsError(f"{where}: {name} is {_form(node)}; it must be a text or a number")
    return node.value


def _no_flag(where: str, name: str, value: str) -> str:
    """Return the value itself. Raises SettingsError if it could be taken for a flag."""
    if value.startswith("-") and not _NEGATIVE.match(value):
        raise SettingsError(
            f"{where}: {name} has {value!r}, which begins like a flag; write a file as ./{value}, a pattern as [-]…"
        )
    return value


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _form(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "empty" if _is_null(node) else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _wanted(kind: Kind) -> str:
    return {"list": "a list of values", "pairs": "a mapping of names to values"}.get(kind.several, "one value")
