"""What of a model's body an adapter reaches, and what it leaves out: in numbers, and in words."""

import re
from collections import Counter
from typing import TYPE_CHECKING, NotRequired, TypedDict

from .units import count_text, counted, percent_text

if TYPE_CHECKING:
    from ..attached.coverage import Coverage

_SHOWN = 6  # groups in the sentence; all are in the summary


class LeftOutGroup(TypedDict):
    """Parameters that are left out for one reason."""

    reason: str
    parameters: int
    share: float
    modules: list[str]


class Reach(TypedDict):
    """A method's reach, as summary.json has it under `coverage`."""

    body_parameters: int
    share: float
    left_out: list[LeftOutGroup]
    virtual_tokens: NotRequired[int]
    """How many the model reads beside each text, of a method that changes no layer for it."""


def reach_of(coverage: "Coverage") -> Reach:
    """Return the reach of a `Coverage` in summary.json's form."""
    groups: list[LeftOutGroup] = [
        {
            "reason": group.reason,
            "parameters": group.parameters,
            "share": round(group.share, 6),
            "modules": _collapsed(group.names),
        }
        for group in coverage.left_out
    ]
    found: Reach = {"body_parameters": coverage.parameters, "share": round(coverage.share, 6), "left_out": groups}
    return {**found, "virtual_tokens": coverage.virtual_tokens} if coverage.virtual_tokens else found


def reach_text(reach: Reach) -> str:
    """Write in one sentence what is reached and what is left out."""
    share, parameters = percent_text(reach["share"]), count_text(reach["body_parameters"])
    left = left_out_text(reach)
    if "virtual_tokens" in reach:
        return f"{virtual_tokens_text(reach['virtual_tokens'])}{f'; left out: {left}' if left else ''}"
    return (
        f"{share} of the body's {parameters} parameters lie in adapted layers"
        f"{f'; left out: {left}' if left else ': nothing is left out'}"
    )


def virtual_tokens_text(count: int) -> str:
    """Write what a method of virtual tokens does to the body."""
    return f"no layer of the body is changed; the model reads {counted(count, 'virtual token')} beside each text"


def left_out_text(reach: Reach) -> str:
    """Write what lies in others, and why; nothing if none does."""
    by_cause: dict[str, list[str]] = {}
    for group in reach["left_out"][:_SHOWN]:
        what, _, why = group["reason"].partition(": ")
        by_cause.setdefault(why, []).append(f"{percent_text(group['share'])} {what}")
    left = [", ".join(parts) + (f" ({why})" if why else "") for why, parts in by_cause.items()]
    more = len(reach["left_out"]) - _SHOWN
    return "; ".join(left) + (f"; and {more} more" if more > 0 else "")


def _collapsed(names: tuple[str, ...]) -> list[str]:
    """Name layers of all blocks as one, with their count."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    return [name if count == 1 else f"{name} ×{count}" for name, count in counts.items()]
