"""Regular expressions that a user or a file gives for names of modules, tried within a limit of time.

Python's own `re` can take hours over a short name (nested repetitions double the work with each letter) and cannot be
stopped. The library `regex`, on which transformers depends, reads the same expressions and stops when it is told.
Google's re2 could not be used: it lacks the look-ahead that is common in PEFT's target_modules.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import regex

from .errors import InvalidRequest, TargetError

SECONDS = 1.0  # for all that is tried within one `limited`, or else for one attempt
_LONGEST = 30_000  # characters
_LITERAL_BRACE = re.compile(r"(?<!\\)\{(?!\d*(?:,\d*)?\})")  # which `regex` would take for a fuzzy match
_ends: ContextVar[float | None] = ContextVar("ends", default=None)


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Limit the time of all that is tried in the block, taken together."""
    token = _ends.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.reset(token)


def check(pattern: object, subject: str, error: type[InvalidRequest] = TargetError) -> None:
    """Raise `error`, which names the subject, unless `pattern` is a regular expression."""
    if _left() <= 0:
        raise error(f"{subject} {_shown(pattern)}, and the expressions before it took {SECONDS:g} s; write fewer")
    try:
        _compiled(pattern, None)
    except (re.error, regex.error, RecursionError, OverflowError, TypeError) as problem:
        reason = "it is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"{subject} {_shown(pattern)}, which is no regular expression: {reason}") from None


def fits(pattern: str, name: str) -> bool:
    """Tell whether the pattern fits the whole name. Raises TargetError if that takes too long to tell."""
    return _tried(pattern, None, name) is not None


def fits_end(pattern: str, name: str) -> bool:
    """Tell whether it fits the name's last parts, as PEFT takes an entry of rank_pattern or alpha_pattern."""
    return _tried(pattern, r"(.*\.)?({})$", name) is not None


def layer_number(lists: str, name: str) -> int | None:
    """Return the number after the first list of layers, whose name fits `lists`, as PEFT counts layers_to_transform."""
    found = _tried(lists, r"(?:|.*?\.)(?:{})\.(\d+)\.", name)
    return None if found is None else int(found[found.re.groups])


def _tried(pattern: str, within: str | None, name: str) -> "regex.Match[str] | None":
    check(pattern, "a pattern is")
    try:
        expression = _compiled(pattern, within)
        tried = expression.fullmatch if within is None else expression.match
        return tried(name, timeout=max(_left(), 0.001))
    except (re.error, regex.error) as problem:  # alone it is one, but not as a part of another
        raise TargetError(f"pattern {_shown(pattern)} cannot stand for a part of a name: {problem}") from None
    except TimeoutError:
        raise TargetError(
            f"pattern {_shown(pattern)} takes longer than {SECONDS:g} s to try on names such as {name}; write it "
            "without repetitions inside repetitions"
        ) from None


def _left() -> float:
    ends = _ends.get()
    return SECONDS if ends is None else ends - time.monotonic()


@lru_cache(maxsize=1000)
def _compiled(pattern: object, within: str | None) -> "regex.Pattern[str]":
    if not isinstance(pattern, str):
        raise TypeError("it is no text")
    if len(pattern) > _LONGEST:
        raise OverflowError(f"it has {len(pattern)} characters; at most {_LONGEST} are read")
    whole = pattern if within is None else within.replace("{}", pattern)
    re.compile(whole)  # which knows less: what only `regex` reads is no expression here
    return regex.compile(_LITERAL_BRACE.sub(r"\{", whole))


def _shown(pattern: object) -> str:
    text = repr(pattern)
    return text if len(text) <= 120 else f"{text[:120]}…"
