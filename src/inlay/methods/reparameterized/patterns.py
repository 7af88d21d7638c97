"""Settings by module, as Hugging Face PEFT reads rank_pattern and alpha_pattern."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ... import expressions
from ...errors import TargetError


def first_fit(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of the first pattern that fits the module `name`."""
    return next((value for pattern, value in patterns.items() if expressions.fits_end(pattern, name)), default)


def whole(name: str) -> str:
    """Return a pattern that fits the module `name` alone."""
    return f"^{re.escape(name)}"


def check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    """Raise TargetError if a pattern is no regular expression, or fits none of the modules `names`."""
    for pattern in patterns:
        expressions.check(pattern, "pattern is")
        if not any(expressions.fits_end(pattern, name) for name in names):
            raise TargetError(f"pattern {pattern!r} fits none of the {len(names)} modules that targets selects")
