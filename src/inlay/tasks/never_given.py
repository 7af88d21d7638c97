"""The answers that no row is given, though some have them: a score that is good on average hides it."""

from collections.abc import Mapping

from ..data.problems import listed, shown
from ..show.units import counted

FEWEST = 3  # rows that have an answer, of which it says something that none is given it


def never_given_text(found: Mapping[str, int], no_row: str) -> str | None:
    """Name the answers that no row is given, each with how many have it; None if there is none. `no_row` says of which,
    such as `no row of valid`."""
    if not found:
        return None
    named = listed(f"{shown(label)} ({counted(rows, 'row')})" for label, rows in found.items())
    which = "a label that some have" if len(found) == 1 else "labels that some have"
    return f"{no_row} is given {which}: {named}"
