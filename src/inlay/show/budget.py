"""A budget of forgetting in words: what of a training stayed inside, and what the passages say that chose nothing."""

from collections.abc import Sequence
from typing import Literal, TypedDict

from ..outside import shown
from .table import Column, Table

UNITS = {"loss": "nats per token", "geometry": "of 1 - CKA"}


class Measured(TypedDict):
    """A step, and what the deciding passages say that it forgot."""

    step: int
    value: float
    interval: Sequence[float]


class Spent(Measured):
    """A step as it was measured in training."""

    most: float
    inside: bool


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
    """What the model forgot of the passages that chose nothing; their figures are under `forgetting`."""


def spent_text(told: Spent) -> str:
    """Say what a step forgot of the deciding passages."""
    return f"forgets {value_text(told)} of general text, {'inside' if told['inside'] else 'outside'} {told['most']:g}"


def chosen_text(found: Chosen) -> str:
    """Say in a line what was kept, and whether the budget is kept on passages that chose nothing."""
    kept = (
        f"step {found['step']} at scale {found['scale']:g} forgets {value_text(found)} of {found['passages']} passages"
    )
    checked = found["checked"]
    if checked is None:
        return f"{kept}, {UNITS[found['measure']]}"
    held = "kept" if checked <= found["most"] else "NOT kept"
    return f"at most {found['most']:g} {UNITS[found['measure']]}, {held}: {kept}, and {_number(checked)} of others"


def budget_sentence(found: Chosen) -> str:
    """Return the sentence of a run's page."""
    of, checked = f"{found['most']:g} {UNITS[found['measure']]}", found["checked"]
    chose = f"Step {found['step']} at scale {found['scale']:g} was kept, as it forgot {value_text(found)}"
    if checked is None:
        return f"Asked to forget at most {of}. {chose}."
    held = "stays inside" if checked <= found["most"] else "does not stay inside"
    return f"The model {held} the {of} that it may forget: {_number(checked)} of passages that chose nothing. {chose}."


def budget_table(found: Chosen, score: str) -> Table:
    """Return what was tried, in its order."""
    names = ("step", "scale", "forgot", "95 % up to", shown(score))
    return Table(
        columns=[Column(name=name, right=True) for name in names],
        rows=[
            [
                str(each["step"]),
                f"{each['scale']:g}",
                _number(each["value"]),
                _number(each["interval"][1]),
                "outside" if each["score"] is None else f"{each['score']:.4g}",
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
