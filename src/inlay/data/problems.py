"""What is wrong with the data: each kind once, with the first place that has it and how many rows do."""

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import DataError

Severity = Literal["error", "warning", "note"]
"""A note says what was found out, and is no problem."""
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Problem:
    severity: Severity
    place: str
    """The first place that has it, such as train.jsonl:17, or a file's name."""
    message: str
    rows: int
    """How many rows have it; 1 for a problem of a whole file."""

    def __str__(self) -> str:
        many = f" ({self.rows} rows have this)" if self.rows > 1 else ""
        return f"{self.place}: {self.message}{many}"


class Problems:
    """Collects problems while rows are read, so that one message can tell them all."""

    def __init__(self):
        self._by_kind: dict[Hashable, Problem] = {}
        self.count = 0

    def add(self, kind: Hashable, place: str, message: str, severity: Severity = "error", rows: int = 1) -> None:
        """Keep the first place and message of a kind; the others are counted."""
        self.count += rows
        first = self._by_kind.get(kind)
        if first is None:
            self._by_kind[kind] = Problem(severity=severity, place=place, message=message, rows=rows)
        else:
            self._by_kind[kind] = replace(first, rows=first.rows + rows)

    def found(self) -> list[Problem]:
        """List errors first and notes last, otherwise in the order in which they were found."""
        return sorted(self._by_kind.values(), key=lambda problem: _ORDER.index(problem.severity))

    def error(self) -> DataError:
        """Make one error of them all, with a line for each kind."""
        return DataError("\n".join(str(problem) for problem in self.found() if problem.severity == "error"))

    def raise_errors(self) -> None:
        """Raise `error()` if there is any."""
        if any(problem.severity == "error" for problem in self._by_kind.values()):
            raise self.error()


@dataclass(frozen=True)
class Unreadable:
    """A value of a file for which Python has none."""

    reason: str


def shown(value: object, limit: int = 40) -> str:
    """Quote a value for a message: as JSON, shortened, or named by its type if it is neither text nor a number."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= limit else value[:limit] + "…", ensure_ascii=False)
    if value is None or isinstance(value, bool | int | float):
        number = json.dumps(value)
        return number if len(number) <= limit else number[:limit] + "…"
    if isinstance(value, Unreadable):
        return value.reason
    return {list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")


def listed(names: Iterable[str], limit: int = 20) -> str:
    """List names for a message, shortened, and not more than a reader would look through."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= 40 else name[:40] + "…" for name in names[:limit]) + more
