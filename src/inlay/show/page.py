"""What every page has: its frame and its style sheet, the templates' filters."""

from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from .plots import MARKS
from .units import UNKNOWN, percent_text

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates(*packages: str) -> "Environment":
    """Return the templates beside this file, as jinja2 has them, and those of Inlay's other packages."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader([PackageLoader("inlay", package) for package in (*packages, "show")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(unknown=UNKNOWN, marks=MARKS)
    found.filters.update(percent=percent_text, unbroken=unbroken, label=label)
    return found


def unbroken(text: str) -> str:
    """Keep a per cent sign beside its number."""
    return text.replace(" %", "\u00a0%")


def label(text: str) -> Markup:
    """Mark up a label of the data: it may break after an underscore, where a browser would rather not."""
    return Markup("<bdi>{}</bdi>").format(Markup("_<wbr/>").join(text.split("_")))
