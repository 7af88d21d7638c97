"""inlay methods [NAME]: the methods by family, or one of them explained."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..core.method import Method
from ..errors import SettingsError, did_you_mean
from ..methods import METHODS
from .parse import parse


@dataclass(frozen=True, kw_only=True)
class Methods:
    """The methods by family; with a NAME: what it trains, its settings, its paper."""

    name: Annotated[Positional[str | None], arg(metavar="NAME")] = None
    """A method, such as lora."""
    json: bool = False
    """Print one JSON object instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Methods, arguments, "methods")
    if command.name is not None and command.name not in METHODS:
        raise SettingsError(f"unknown method {command.name!r}{did_you_mean(command.name, METHODS)}")
    chosen = METHODS if command.name is None else {command.name: METHODS[command.name]}
    if command.json:
        print(json.dumps({name: facts(method) for name, method in chosen.items()}, indent=2))
    elif command.name is None:
        print(_table())
    else:
        print(_explained(METHODS[command.name]))
    return 0


def facts(method: type[Method]) -> dict[str, Any]:
    return {
        "family": method.family,
        "trains": method.summary,
        "learning_rate": method.learning_rate,
        "paper": method.paper,
        "peft_type": method.peft_type if method.peft_reads else None,
        "settings": dataclasses.asdict(method()),
    }


def _table() -> str:
    lines: list[str] = []
    for family in dict.fromkeys(method.family for method in METHODS.values()):
        lines.append(family)
        lines += [f"  {name:<10} {m.summary}" for name, m in METHODS.items() if m.family == family]
    return "\n".join([*lines, "", "inlay methods NAME explains one."])


def _explained(method: type[Method]) -> str:
    text = (sys.modules[method.__module__].__doc__ or "").strip()
    saved = "Hugging Face PEFT's format" if method.peft_reads else "a format of its own, which PEFT does not read"
    return "\n".join(
        [
            f"{method.name} ({method.family}): trains {method.summary}",
            "",
            text,
            "",
            f"learning rate  {method.learning_rate:g} by default",
            f"paper          {method.paper}",
            f"saved as       {saved}",
            "",
            f"settings       what they do: inlay train --method {method.name} --help"
            if dataclasses.fields(method)
            else "no settings",
            *(f"  {name} = {value!r}" for name, value in dataclasses.asdict(method()).items()),
        ]
    )
