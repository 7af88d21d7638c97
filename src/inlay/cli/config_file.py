"""run.yaml: the settings of a run in a file, read strictly and with its line numbers."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError, did_you_mean
from ..training.settings import RunSettings


@dataclass(frozen=True)
class ConfigFile:
    path: Path
    values: dict[str, Any]  # by dotted name
    lines: dict[str, int]

    @property
    def method(self) -> str | None:
        return self.values.get("method.name")

    def arguments(self, methods: dict[str, type[Method]], method: str) -> list[str]:
        """The settings as the command line has them. Raises SettingsError for an unknown one, with its line."""
        if method not in methods:
            raise SettingsError(f"{self.path}: unknown method {method!r}{did_you_mean(method, methods)}")
        fields = {f.name: f for f in dataclasses.fields(RunSettings) if f.name not in ("data", "method")}
        fields |= {f"data.{f.name}": f for f in dataclasses.fields(DataSettings)}
        fields |= {f"method.{f.name}": f for f in dataclasses.fields(methods[method])}
        known = {*fields, "method.name"}
        flags, positional = [], []
        for name, value in self.values.items():
            if name not in known:
                raise SettingsError(
                    f"{self.path}:{self.lines[name]}: unknown setting {name}{did_you_mean(name, known)}"
                )
            if name in ("model", "data.path"):
                positional.append(str(value))
            elif name != "method.name":
                flags += flag(name, value, fields[name].default)
        return [*positional, *flags]  # after a flag that takes any number of values they would be more of those


def read_config_file(path: Path) -> ConfigFile:
    """Raises SettingsError if the file is missing, no YAML mapping, or has a setting twice."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SettingsError(f"{path}: cannot be read: {problem.strerror}") from None
    except yaml.YAMLError as problem:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path}: a run's settings are a mapping, such as `model: builtin:minilm`")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    _flatten(path, root, "", values, lines)
    return ConfigFile(path, values, lines)


def _flatten(path: Path, node: yaml.MappingNode, prefix: str, values: dict[str, Any], lines: dict[str, int]) -> None:
    for key_node, value_node in node.value:
        key = key_node.value.replace("-", "_")
        name, line = f"{prefix}.{key}" if prefix else key, key_node.start_mark.line + 1
        if name in lines:
            raise SettingsError(f"{path}:{line}: {name} is set in line {lines[name]} already")
        lines[name] = line
        if isinstance(value_node, yaml.MappingNode) and name in ("data", "method"):
            _flatten(path, value_node, key, values, lines)
            continue
        short = {"data": "data.path", "method": "method.name"}.get(name, name)  # `data: FILE`, `method: lora`
        lines[short] = line
        values[short] = yaml.SafeLoader("").construct_object(value_node, deep=True)


def flag(name: str, value: Any, default: Any = None) -> list[str]:
    """A setting as the command line has it."""
    option = "--" + name.replace("_", "-")
    match value:
        case True | False if value == default:
            return []
        case True:
            return [option]
        case False:
            group, dot, setting = option.removeprefix("--").rpartition(".")
            return [f"--{group}{dot}no-{setting}"]
        case dict():
            return [option, *(str(part) for pair in value.items() for part in pair)]
        case list():
            return [option, *map(str, value)]
    return [option, str(value)]
