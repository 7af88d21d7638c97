"""Every method on every architecture: right, or refused with a sentence. What is checked: tests/architectures/cell.py.

The quick tests take one method of each architecture, another one from row to row; the slow ones all of them, as does
`python scripts/architectures.py`, which also writes docs/architectures.md.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inlay

from .architectures import ARCHITECTURES
from .architectures.cell import Base, Cell, blocks_found

METHODS = list(inlay.METHODS)


def _cells() -> Iterator[Any]:
    for row, name in enumerate(ARCHITECTURES):
        for column, method in enumerate(METHODS):
            quick = column == row % len(METHODS)
            yield pytest.param(name, method, id=f"{name}-{method}", marks=() if quick else pytest.mark.slow)


@functools.lru_cache(maxsize=1)
def base_of(name: str) -> Base:
    return Base(ARCHITECTURES[name])


@pytest.mark.parametrize(("name", "method"), list(_cells()))
def test_a_method_is_right_or_refused(name: str, method: str) -> None:
    verdict = Cell(base_of(name), method).examine()
    assert not verdict.faults, "\n".join(map(str, verdict.faults))
    assert not verdict.refused or len(verdict.refused) > 40


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_its_blocks_are_found(name: str) -> None:
    assert not blocks_found(ARCHITECTURES[name]).faults


def test_the_page_has_every_architecture_and_no_fault() -> None:
    page = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| (\w.*?) \|", page, re.MULTILINE)) == sorted(ARCHITECTURES)
    assert "✗" not in page
