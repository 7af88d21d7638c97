"""A budget of forgetting in words: what of a training stayed inside, and what the passages say that check it."""

from collections.abc import Callable, Sequence
from typing import Literal, NotRequired, TypedDict

from ..outside import shown
from .table import Column, Table
from .units import percent_text

UNITS = {"loss": "nats per token", "geometry": "of 1 - CKA (0: unchanged, 1: unrelated)"}


class Measured(TypedDict):
    """A step, and what the deciding passages say that it forgot."""

    step: int
    value: float
    interval: Sequence[float]


class Spent(Measured):
    """A step as it was measured in training."""

    most: float
    inside: bool
    measure: NotRequired[Literal["loss", "geometry"]]


class Tried(Measured):
    """A step at a scale, as it was measured after the training."""

    scale: float
    """The share of the way from the adapter's start to that step."""
    score: float | None
    """The score on valid that decides; None if it is outside the budget."""


class Chosen(Tried):
    """The step and the scale that a run kept, as summary.json has it under `budget`."""

    most: float
    measure: Literal["loss", "geometry"]
    passages: int
    """How many decided."""
    tried: Sequence[Tried]
    checked: float | None
    """What the model forgot of the other half of the passages; their figures are under `forgetting`."""


def spent_text(told: Spent) -> str:
    """Say what a step forgot of the deciding passages."""
    unit = f" {UNITS[told['measure']]}" if "measure" in told else ""
    return f"forgets {value_text(told)}{unit}, {'inside' if told['inside'] else 'outside'} {told['most']:g}"


def chosen_text(found: Chosen) -> str:
    """Say in a line what was kept, and whether the budget holds on the passages that checked it."""
    kept = f"{_step(found)} forgets {value_text(found)} on the {found['passages']} passages that chose it"
    if found["checked"] is None:
        return f"{_bound(found)}: {kept}"
    side = "inside" if _holds(found) else "OUTSIDE"
    return f"{side} {_bound(found)}: {_number(found['checked'])} on the passages that check; {kept}"


def budget_sentence(found: Chosen) -> str:
    """Return the sentence of a run's page."""
    chose = f"{_step(found, 'Step')} was kept, as it forgot {value_text(found)} on the half that chose"
    if found["checked"] is None:
        return f"Asked to forget at most {_bound(found)}. {chose}."
    side = "stays inside" if _holds(found) else "does not stay inside"
    checked = _number(found["checked"])
    return (
        f"The model {side} its budget of {_bound(found)}: {checked} on the half of the passages that checks. {chose}."
    )


def _holds(found: Chosen) -> bool:
    return found["checked"] is not None and found["checked"] <= found["most"]


def _step(found: Measured, word: str = "step") -> str:
    """Name a step, and how much of its change was kept if not all."""
    scale = found.get("scale", 1)
    return f"{word} {found['step']}" + ("" if scale == 1 else f" with {percent_text(scale)} of its change")


def _bound(found: Chosen) -> str:
    """Write the budget in its unit. One of embeddings says nothing of which kinds of text are recognised."""
    alone = ", by embeddings alone" if found["measure"] == "geometry" else ""
    return f"{found['most']:g} {UNITS[found['measure']]}{alone}"


def budget_table(found: Chosen, score: str, text: Callable[[float], str]) -> Table:
    """Return what was tried, in its order; `text` writes the score."""
    names = ("step", "share of its change", "forgot", "95 % up to", shown(score))
    return Table(
        columns=[Column(name=name, right=True) for name in names],
        rows=[
            [
                str(each["step"]),
                percent_text(each["scale"]),
                _number(each["value"]),
                _number(each["interval"][1]),
                "outside" if each["score"] is None else text(each["score"]),
            ]
            for each in found["tried"]
        ],
    )


def value_text(found: Measured) -> str:
    """Say what a step forgot, and how much that may be."""
    return f"{_number(found['value'])} (95 % up to {_number(found['interval'][1])})"


def _number(value: float) -> str:
    """Write a number such that it can be told from a budget as small as itself."""
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"
