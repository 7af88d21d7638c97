"""What the tests of the readers call a fault is one."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from inlay.errors import InlayError, SettingsError

from . import attempts
from .attempts import attempt


def test_what_is_used_and_what_is_refused_is_none() -> None:
    def refuse() -> None:
        raise SettingsError("no")

    assert attempt(lambda: None)
    assert not attempt(refuse)


def compute() -> None:
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass


def fill() -> bytes:
    return b"x" * (100 << 20)


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the whole process")


@pytest.mark.parametrize(
    ("limit", "value", "read", "said"),
    [("SECONDS", 0.09, compute, "it took 0.1 s"), pytest.param("MEGABYTES", 90, fill, "it took .* MB", marks=linux)],
    ids=["seconds", "megabytes"],
)
def test_limits_are_held_to(
    limit: str, value: float, read: Callable[[], Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, limit, value)
    with pytest.raises(AssertionError, match=said):
        attempt(read)


@pytest.mark.parametrize("problem", [ValueError("x"), InlayError("of no kind"), KeyError("x")], ids=repr)
def test_any_other_error_is_one(problem: Exception) -> None:
    def fail() -> None:
        raise problem

    with pytest.raises((AssertionError, ValueError, KeyError), match=r"x|1: of no kind"):
        attempt(fail)
