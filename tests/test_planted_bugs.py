"""The bugs of scripts/planted_bugs.py can be planted, and their tests are there; the slow test plants them all."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from bugs import BUGS, KINDS  # noqa: E402  # pyright: ignore
from planted_bugs import cannot_be_planted  # noqa: E402  # pyright: ignore


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_its_text_is_there_once_and_so_is_its_test(bug: Any) -> None:
    assert not cannot_be_planted(bug, (ROOT / "src" / "inlay" / bug.file).read_text(encoding="utf-8"))
    assert bug.new != bug.old
    file, _, function = bug.test.split(" ")[0].partition("::")
    assert f"def {function}" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_every_kind_has_one() -> None:
    assert {bug.kind for bug in BUGS} == KINDS.keys()


@pytest.mark.slow
@pytest.mark.long
def test_each_is_caught() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "planted_bugs.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
