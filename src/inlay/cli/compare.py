"""inlay compare MODEL DATA --methods NAME NAME …: the same data, split and budget for each."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..api.asked import SHORT_FOR
from ..core.method import Method
from ..elsewhere import SETTINGS
from ..errors import InterruptTold, SettingsError
from ..lab.compare.settings import CompareSettings, Contender
from ..methods import METHODS
from ..names import no_setting
from ..training.settings import Recipe
from .arguments import DataArguments, Model
from .compare_screen import print_result
from .config_file import arguments_of, parse_yaml
from .console import watching
from .parse import parse
from .screen import print_json

if TYPE_CHECKING:
    from ..lab.compare.result import ComparisonResult


@dataclass(frozen=True, kw_only=True)
class Compare(CompareSettings):
    """Train several methods on the same data, split and budget, and say what the figures allow one to say.

    Runs are in OUT/runs, each as `inlay train` writes it; OUT has report.html, report.md and report.csv. The same
    command again goes on where it was stopped. More methods or seeds can be added to what is there.
    """

    model: Model
    data: DataArguments
    methods: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    then: Annotated[tuple[str, ...], arg(metavar="DATA")] = ()
    cluster: Annotated[str | None, arg(metavar="ADDRESS")] = None
    json: bool = False
    """Print one JSON event per line instead of text."""


_OWN = [field.name for field in dataclasses.fields(CompareSettings) if field not in dataclasses.fields(Recipe)]
_TITLES = {
    **dict.fromkeys(_OWN, "The comparison"),
    **{field.name: "Each run" for field in dataclasses.fields(Recipe) if field.name not in _OWN},
    "data.": "The data",
    "json": "The output",
}


def main(arguments: list[str]) -> int:
    asked = parse(Compare, arguments, "compare", titles=_TITLES)
    contenders = [contender(label) for label in asked.methods]
    try:
        with watching(asked.json) as watcher:
            from ..api.comparison import compare

            settings = {field.name: getattr(asked, field.name) for field in dataclasses.fields(CompareSettings)}
            known = settings | {"methods": contenders, "command": ["inlay", "compare", *arguments]}
            result = compare(**known, progress=watcher).result
    except KeyboardInterrupt:
        kept = "finished runs are kept, and the same command again goes on with the others"
        print(f"interrupted; {kept}", file=sys.stderr)
        raise InterruptTold from None
    if asked.json:
        print_json({"event": "compared", "folder": str(result.folder), **_as_json(result)})
    else:
        print_result(result)
    return 0


def contender(label: str) -> Contender:
    """Read `lora`, `qlora`, `lora:rank=4,alpha=8`, or `package.module:Class:rank=4`.

    Raises SettingsError for an unknown name, setting or value.
    """
    asked, settings = _parts(label)
    name, implied = SHORT_FOR.get(asked, (asked, {}))
    return Contender(
        label=label,
        method=_method(METHODS.find(name, also=SHORT_FOR), label, settings),
        quantize=implied.get("quantize", "none"),
    )


def _parts(label: str) -> tuple[str, str]:
    """Split a label into the method and its settings; a method may be `package.module:Class`."""
    asked, _, settings = label.partition(":")
    if asked in METHODS or asked in SHORT_FOR or not settings.partition(":")[0].isidentifier():
        return asked, settings
    path, _, settings = settings.partition(":")
    return f"{asked}:{path}", settings


def _method(kind: type[Method], label: str, settings: str) -> Method:
    known = {field.name: field for field in dataclasses.fields(kind)}
    arguments: dict[str, list[str]] = {}
    asked = [setting.partition("=") for setting in settings.split(",") if setting]
    if unknown := [name for name, *_ in asked if name not in known]:
        raise SettingsError("\n".join(f"{label}: {no_setting(kind.name, name, known, SETTINGS)}" for name in unknown))
    for name, equals, value in asked:
        node = parse_yaml(value, label) if equals else None
        if node is None:
            raise SettingsError(f"{label}: {name} has no value; write {name}=VALUE")
        if name in arguments:
            raise SettingsError(f"{label}: {name} is given twice; give it once")
        arguments[name] = arguments_of(label, name, node, known[name])
    return parse(kind, [each for given in arguments.values() for each in given], f"methods {kind.name}")


def _as_json(result: "ComparisonResult") -> dict[str, object]:
    from ..lab.compare.export import advice_object, table_rows

    return {"rows": table_rows(result.table), "advice": advice_object(result.advice)}
