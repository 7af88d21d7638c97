"""Settings by module, as Hugging Face PEFT reads rank_pattern and alpha_pattern."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ... import expressions
from ...errors import TargetError

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Strengths:
    """The ranks and alphas of a LoRA's modules as PEFT keeps them: one of each, and others by pattern."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]

    def of(self, name: str) -> tuple[int, float]:
        """Look up rank and alpha of the module `name`."""
        return first_fit(self.rank_pattern, name, self.rank), first_fit(self.alpha_pattern, name, self.alpha)


def first_fit(patterns: Mapping[str, ValueT], name: str, default: ValueT) -> ValueT:
    """Look up the value of the first pattern that fits the module `name`."""
    return next((value for pattern, value in patterns.items() if expressions.fits_end(pattern, name)), default)


def whole(name: str) -> str:
    """Write a pattern that fits the module `name` alone."""
    return f"^{re.escape(name)}"


def check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    """Raise TargetError if a pattern is no regular expression, or fits none of the modules `names`."""
    for pattern in patterns:
        expressions.check(pattern, "pattern is")
        if not any(expressions.fits_end(pattern, name) for name in names):
            raise TargetError(f"pattern {pattern!r} fits none of the {len(names)} modules that targets selects")
