"""A method explained, from its class's docstring, which has this shape:

    What the method does, in a sentence or two.

        A picture of the data's flow; what has double lines is trained, what has single ones is frozen.

        The formula.

    When: when to use it, and when not.

    Cost: memory, time for a step, and what is left of it at inference.

The picture and the formula are indented. A docstring of another shape is shown as it is. A family is explained in the
docstring of its package, as prose and indented blocks that stand for themselves.
"""

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from ..core.method import Method
from ..field_texts import field_texts

SHAPE = ["text", "indented", "indented", "When", "Cost"]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A method's docstring, taken apart."""

    idea: str
    picture: str
    formula: str
    when: str
    cost: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One of a method's settings, with its help."""

    name: str
    default: object
    text: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a docstring between blank lines."""

    text: str
    is_verbatim: bool  # indented: a picture or a formula, whose line breaks stay


def explained(method: type[Method]) -> Explained:
    """Take the method's docstring apart; one of another shape is an idea and what is indented in it."""
    docstring = vars(method)["__doc__"] or ""
    if docstring.startswith(f"{method.__name__}("):  # which dataclass writes where there is none
        docstring = f"Trains {method.summary}."
    found = list(blocks(docstring))
    if [_kind(block) for block in found] != SHAPE:
        idea = " ".join(block.text for block in found if not block.is_verbatim)
        picture = "\n\n".join(block.text for block in found if block.is_verbatim)
        return Explained(idea=idea, picture=picture, formula="", when="", cost="")
    idea, picture, formula, when, cost = (block.text for block in found)
    return Explained(
        idea=idea,
        picture=picture,
        formula=formula,
        when=when.removeprefix("When: "),
        cost=cost.removeprefix("Cost: "),
    )


def blocks(docstring: str) -> Iterator[Block]:
    """Yield the paragraphs, each in one line, and the indented blocks, without their indentation."""
    for part in inspect.cleandoc(docstring).split("\n\n"):
        is_verbatim = part.startswith(" ")
        yield Block(text=textwrap.dedent(part) if is_verbatim else " ".join(part.split()), is_verbatim=is_verbatim)


def settings(method: type[Method]) -> list[Setting]:
    """List the method's settings in their order, with the text that stands below each in the code."""
    texts, defaults = field_texts(method), method()
    return [
        Setting(name=field.name, default=getattr(defaults, field.name), text=texts.get(field.name, ""))
        for field in dataclasses.fields(method)
    ]


def _kind(block: Block) -> str:
    if block.is_verbatim:
        return "indented"
    return next((part for part in ("When", "Cost") if block.text.startswith(f"{part}: ")), "text")
