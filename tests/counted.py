"""Calls that a test counts."""

from typing import Any

import pytest


def counted_calls(monkeypatch: pytest.MonkeyPatch, module: Any, function: str) -> list[Any]:
    """Collect the first argument of every call of the module's function from now on."""
    seen, original = [], getattr(module, function)

    def counting(first: Any, *others: Any, **named: Any) -> Any:
        seen.append(first)
        return original(first, *others, **named)

    monkeypatch.setattr(module, function, counting)
    return seen
