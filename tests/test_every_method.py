"""The contract that every method keeps, on every shape. A new method is covered by being in METHODS."""

from collections.abc import Callable

import pytest

import inlay
from inlay.testing import CHECKS
from inlay.testing.contract import attach_and_detach_after_compile_take_effect_in_one_graph as compiled

from .shapes import SHAPES, Shape, method

CONTRACT = [check for check in CHECKS if check is not compiled]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", inlay.METHODS)
def test_keeps_the_contract(name: str, shape: Shape, check: Callable[[inlay.Method, Shape], None]) -> None:
    check(method(name, shape), shape)


@pytest.mark.parametrize("name", inlay.METHODS)
@pytest.mark.parametrize(
    "shape", [s if n == "llama" else pytest.param(s, marks=pytest.mark.slow) for n, s in SHAPES.items()], ids=SHAPES
)
def test_attach_and_detach_after_compile_take_effect_in_one_graph(name: str, shape: Shape) -> None:
    compiled(method(name, shape.shallow), shape.shallow)
