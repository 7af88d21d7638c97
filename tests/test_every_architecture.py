"""Every method on every architecture: right, or refused with a sentence. tests/architectures/cell.py says what is checked.

Here each architecture has one method, a different one from row to row; the slow test has all of them, as has
`python scripts/architectures.py`, which also writes docs/architectures.md.
"""

import re
from pathlib import Path

import pytest

import inlay

from .architectures import ARCHITECTURES
from .architectures.cell import Base, Cell, blocks_found, examine

METHODS = list(inlay.METHODS)


@pytest.mark.parametrize(("name", "method"), [(a, METHODS[i % len(METHODS)]) for i, a in enumerate(ARCHITECTURES)])
def test_a_method_is_right_or_refused(name: str, method: str) -> None:
    verdict = Cell(Base(ARCHITECTURES[name]), method).examine()
    assert not verdict.faults, "\n".join(map(str, verdict.faults))
    assert not verdict.refused or len(verdict.refused) > 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_method_is_right_or_refused(name: str) -> None:
    verdicts = list(examine(ARCHITECTURES[name], METHODS))
    assert not [f"{v.method}: {fault}" for v in verdicts for fault in v.faults]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_its_blocks_are_found(name: str) -> None:
    assert not blocks_found(ARCHITECTURES[name]).faults


def test_the_page_has_every_architecture_and_no_fault() -> None:
    page = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\S.*?) \|", page, re.MULTILINE) == list(ARCHITECTURES)
    assert "✗" not in page
