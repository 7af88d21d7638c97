"""Which variants of a method meet which models, so that few tests meet all of both."""

from collections.abc import Iterable
from typing import Any

import pytest

from ..shapes import SHAPES


def builds(*names: str) -> Any:
    """Mark a test to run on the generating model and the classifier of these shapes, or of all."""
    return pytest.mark.parametrize(("shape", "build"), [pytest.param(*values, id=name) for name, values in _of(names)])


def variants_and_builds(variants: Iterable[Any], *names: str, called: str = "variant") -> Any:
    """Mark a test to run the first variant on every build, and of the others each on a third of them, in turn."""
    chosen = [
        pytest.param(variant, *values, id=f"{variant}-{name}")
        for turn, variant in enumerate(variants)
        for place, (name, values) in enumerate(_of(names))
        if turn == 0 or (place - turn) % 3 == 0
    ]
    return pytest.mark.parametrize((called, "shape", "build"), chosen)


def _of(names: tuple[str, ...]) -> list[tuple[str, tuple[Any, Any]]]:
    return [
        (f"{name}-{kind}", (SHAPES[name], getattr(SHAPES[name], kind)))
        for name in names or SHAPES
        for kind in ("model", "classifier")
        if kind == "classifier" or SHAPES[name].generates
    ]
