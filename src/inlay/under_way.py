"""What takes a while and has no events, such as scoring: whoever shows progress is told of each part that is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Tell = Callable[[str, int, int], None]
"""Takes what is under way, how many of its parts are done, and how many there are."""

_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


@contextmanager
def shown_by(tell: Tell) -> Iterator[None]:
    """Tell of what is under way in the block: before its first part and after each one."""
    before = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(before)


def in_parts(what: str, parts: int, compute: Callable[P, R]) -> Callable[P, R]:
    """Return `compute`, of which each call is one of so many parts of what is under way."""
    tell, done = _tell.get(), 0
    if tell is None:
        return compute

    def part(*given: P.args, **named: P.kwargs) -> R:
        nonlocal done
        if done == 0:
            tell(what, 0, parts)
        result = compute(*given, **named)
        done += 1
        tell(what, done, parts)
        return result

    return part
