"""What every page has: its frame and its style sheet, the templates' filters."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import PurePath
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
    found.filters.update(percent=percent_text, unbroken=unbroken, label=label, short_path=short_path)
    return found


_FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z0-9.-]*(?: \d[\w.]*)?)")


def unbroken(text: str) -> Markup:
    """Mark up a sentence such that a number keeps its per cent sign and its interval, and a flag, which browsers break
    after its hyphens, stays whole."""
    kept = text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")
    parts = _FLAG.split(kept)  # every second one is a flag
    flag = Markup('<span class="whole">{}</span>')
    return Markup("").join(flag.format(part) if i % 2 else part for i, part in enumerate(parts))


def short_path(name: str) -> str:
    """Shorten an absolute path to its last two parts, which say enough in a heading."""
    path = PurePath(name)
    return "/".join(path.parts[1:][-2:]) or name if path.is_absolute() else name


def excerpt(text: str, longest: int) -> Markup:
    """Mark up the beginning of a text of the data, which may run from right to left."""
    cut = text if len(text) <= longest else text[:longest].rpartition(" ")[0] + " …"
    return Markup('<span dir="auto">{}</span>').format(cut)


def bar(share: float) -> Markup:
    """Mark up a share with a bar beneath it."""
    return Markup('<span class="share" style="--share: {:.3f}">{:.2f}</span>').format(share, share)


def label(text: str) -> Markup:
    """Mark up a label: it may break after an underscore, a comma or a sign of equality, where a browser would not."""
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr/>").join(re.split("(?<=[_,=])", text)))


def paragraphs(sentences: Iterable[str]) -> Markup:
    """Mark up sentences, each by itself."""
    return Markup("").join(Markup("<p>{}</p>").format(sentence) for sentence in sentences)
