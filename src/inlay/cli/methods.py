"""inlay methods [NAME]: the methods by family, or one family or method explained."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from .parse import parse


@dataclass(frozen=True, kw_only=True)
class Methods:
    """The methods by family; with a NAME: a family or a method explained."""

    name: Annotated[Positional[str | None], arg(metavar="[NAME]")] = None
    """A method, such as lora or package.module:Class, or a family: baseline, selective, additive, reparameterized or
    prompts."""
    json: bool = False
    """Print one JSON object instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Methods, arguments, "methods")
    from .methods_screen import print_methods

    print_methods(command.name or "", command.json)
    return 0
