"""What is wrong with the data: each kind once, with the first places that have it and how many rows do."""

import json
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import DataError
from ..show.units import counted, percent_text

Severity = Literal["error", "warning", "skipped", "note"]
"""Skipped is what makes rows useless that are left out; a note says what was found out, and is no problem."""
_ORDER: tuple[Severity, ...] = ("error", "warning", "skipped", "note")
PLACES_TOLD = 5
_FEW = (0.001, 0.01, 0.05)  # of the rows: so few faulty ones it is sensible to skip
_NUMBERED = re.compile(r"(.*)(:| row )(\d+)", re.DOTALL)  # train.jsonl:17, train.json row 4


@dataclass(frozen=True, kw_only=True)
class Problem:
    severity: Severity
    place: str
    """The first place that has it, such as train.jsonl:17, or a file's name."""
    message: str
    rows: int
    """How many rows have it; 1 for a problem of a whole file."""
    places: tuple[str, ...] = ()
    """The first few places that have it, so that all of these can be seen to at once."""

    def __str__(self) -> str:
        where = f": {places_text(self.places, self.rows)}" if len(self.places) > 1 else ""
        many = f" ({self.rows} rows have this{where})" if self.rows > 1 else ""
        return f"{self.place}: {self.message}{many}"

    @property
    def told(self) -> str:
        """The problem as a run's log has it, where nothing else says what became of the rows."""
        return f"skipped: {self}" if self.severity == "skipped" else str(self)


class Problems:
    """Collects problems while rows are read, so that one message can tell them all.

    `skip` is the share of the rows that may be faulty and are left out then; None where that cannot be asked for.
    """

    def __init__(self, skip: float | None = None):
        self.skip = skip
        self.count = 0
        self._by_kind: dict[Hashable, Problem] = {}
        self._faulty: set[str] = set()  # places

    def add(self, kind: Hashable, place: str, message: str, severity: Severity = "error", rows: int = 1) -> None:
        """Keep the first message of a kind and its first few places; the others are counted."""
        self.count += rows
        first = self._by_kind.get(kind)
        if first is None:
            self._by_kind[kind] = Problem(severity=severity, place=place, message=message, rows=rows, places=(place,))
            return
        new = len(first.places) < PLACES_TOLD and place not in first.places
        self._by_kind[kind] = replace(
            first, rows=first.rows + rows, places=(*first.places, place) if new else first.places
        )

    def fault(self, kind: Hashable, place: str, message: str) -> None:
        """Add what makes one row useless, which is an error unless such rows are skipped. The caller leaves it out."""
        self._faulty.add(place)
        self.add(kind, place, message, severity="skipped" if self.skip else "error")

    @property
    def faulty(self) -> int:
        """How many rows have a fault."""
        return len(self._faulty)

    @property
    def faulty_places(self) -> Collection[str]:
        """Where they are."""
        return self._faulty

    def weigh(self, name: str, faulty: int, rows: int) -> None:
        """Say how many of the rows of a file or a split are skipped; it is an error if they are more than may be. Where
        they are few and none may be skipped as yet, say how."""
        if self.skip is None or not faulty:
            return
        share = faulty / rows
        found = f"{faulty:,} of {counted(rows, 'row')} {'is' if faulty == 1 else 'are'} faulty ({percent_text(share)})"
        allowed = f"data.skip_faulty allows {100 * self.skip:g} %"
        if not self.skip:
            if few := next((few for few in _FEW if share <= few), None):
                how = f"mend them, or --data.skip-faulty {few} goes on without them, up to {100 * few:g} %"
                self.add(("faulty", name), name, f"{found}; {how}")
        elif share > self.skip:
            self.add(
                ("faulty", name),
                name,
                f"{found}, and {allowed}: {int(self.skip * rows + 1e-9):,}; mend them, or allow more",
            )
        else:
            self.add(("faulty", name), name, f"{found}; {allowed}", severity="skipped")

    def found(self) -> list[Problem]:
        """List errors first and notes last, otherwise in the order in which they were found."""
        return sorted(self._by_kind.values(), key=lambda problem: _ORDER.index(problem.severity))

    def error(self) -> DataError:
        """Make one error of them all, with a line for each kind."""
        lines = [str(problem) for problem in self.found() if problem.severity in ("error", "skipped")]
        return DataError("\n".join(lines))

    def raise_errors(self) -> None:
        """Raise `error()` if there is any."""
        if any(problem.severity == "error" for problem in self._by_kind.values()):
            raise self.error()


def number_in(place: str) -> int:
    """Return the number of a row's line, or of the row, from its place. Raises ValueError for that of a file."""
    if (match := _NUMBERED.fullmatch(place)) is None:
        raise ValueError(f"{place!r} has no number")
    return int(match[3])


def places_text(places: Sequence[str], count: int) -> str:
    """Write `lines 7, 12, 31 and 4 more` for the first few of `count` places: of several files with their names."""
    first, noun = list(places[:PLACES_TOLD]), ""
    found = [match.groups() for place in first if (match := _NUMBERED.fullmatch(place))]
    if len(found) == len(first) and len({(name, sign) for name, sign, _ in found}) == 1:
        noun = ("line" if found[0][1] == ":" else "row") + ("s " if count > 1 else " ")
        first = [number for *_, number in found]
    if (more := count - len(first)) > 0:
        return f"{noun}{', '.join(first)} and {more:,} more"
    *others, last = first
    return f"{noun}{', '.join(others)} and {last}" if others else noun + last


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
