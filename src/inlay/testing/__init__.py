"""Tests for a method of yours: the contract that Inlay holds its own methods to.

from inlay.testing import check_method
check_method(MyMethod)
"""

from collections.abc import Callable

from ..core.method import Method
from ..errors import TargetError
from ..methods import FAMILIES, METHODS
from ..methods.explained import explained, settings
from ..methods.llama_7b import on_llama_7b
from ..methods.peak_rate import rates_of
from ..models.sites import Sites
from .contract import CHECKS, attach_and_detach_after_compile_take_effect_in_one_graph
from .shapes import SHAPES, Shape

__all__ = ["CHECKS", "SHAPES", "Shape", "check_method"]


def check_method(kind: type[Method], **asked: object) -> None:
    """Hold a method, with the settings asked for, to the contract on small models of four architectures.

    The method is registered. Architectures of which it raises TargetError are left out. Raises AssertionError with the
    check that failed and the architecture.
    """
    METHODS.register(kind)
    _run("is described", kind, check_description, kind)
    method = kind(**asked)
    fitting = [shape for shape in SHAPES.values() if _fits(method, shape)]
    assert fitting, f"{kind.__name__} fits none of {', '.join(SHAPES)}"
    for shape in fitting:
        for check in CHECKS:
            if check is attach_and_detach_after_compile_take_effect_in_one_graph and shape is not fitting[0]:
                continue  # which takes long, and is the same for each
            _run(f"{check.__name__} on {shape.name}", kind, check, method, shape)


def check_description(kind: type[Method]) -> None:
    """Require what lists, help and reports show of a method."""
    assert kind.family in FAMILIES, f"family is {kind.family!r}; known: {', '.join(FAMILIES)}"
    assert kind.summary, "summary is empty"
    assert kind.paper.startswith("https://"), f"paper is {kind.paper!r}, which is no address"
    assert min(rates_of(kind).reading, rates_of(kind).writing) > 0, f"learning_rate is {kind.learning_rate}"
    assert kind() == kind(), "two methods with the same settings differ"
    assert explained(kind).idea, "there is no explanation"
    for setting in settings(kind):
        assert setting.text, f"{setting.name} has no text below it, which is its help"
    assert on_llama_7b(kind).trained > 0, "nothing of a Llama 2 7B is trained"


def _fits(method: Method, shape: Shape) -> bool:
    try:
        return bool(list(method.place(Sites(shape.model()))))
    except TargetError:
        return False


def _run(what: str, kind: type[Method], check: Callable[..., None], *arguments: object) -> None:
    try:
        check(*arguments)
    except Exception as problem:
        raise AssertionError(f"{kind.__name__}: {what}: {problem}") from problem
