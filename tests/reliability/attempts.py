"""A reader that is given very many damaged files: it uses each rightly or refuses it, within limits of time and memory.

A fault is any error but Inlay's own with exit code 2 to 5, and a limit that is passed. Seeded: the same damage on every
machine. The limits are told so that a busy machine changes nothing: seconds in which this process computes, and its own
peak (on Linux alone, which can put the mark of it back).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inlay.errors import InlayError
from inlay.training.memory import memory_bytes, peak_memory_bytes

SECONDS, MEGABYTES = 2.0, 500
LONGEST = 5000  # letters of what is said of a file
MANY = 10_000
CPU = torch.device("cpu")


def seeded(examples: int) -> Any:
    """So many examples, the same each time, none of them kept."""
    checks = list(HealthCheck)
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


def fuzz(quick: int, slow: int = MANY) -> Callable[[Callable[..., None]], Any]:
    """Run a test in a reduced form, and in the long one where slow tests are run."""

    def both(test: Callable[..., None]) -> Any:
        return pytest.mark.parametrize(
            "examples", [quick, pytest.param(slow, marks=[pytest.mark.slow, pytest.mark.long])]
        )(test)

    return both


@contextmanager
def bounded() -> Iterator[None]:
    """Raises AssertionError if the block computes for longer, or takes more memory, than any one file may ask for."""
    with suppress(OSError):  # `reset_peak_memory` collects garbage as well, which takes longer than a file
        Path("/proc/self/clear_refs").write_text("5")
    memory, began = memory_bytes(CPU), time.process_time()
    yield
    seconds, megabytes = time.process_time() - began, (peak_memory_bytes(CPU) - memory) >> 20
    assert seconds < SECONDS, f"it took {seconds:.1f} s"
    assert megabytes < MEGABYTES, f"it took {megabytes} MB"


def attempt(read: Callable[[], Any]) -> bool:
    """Whether `read` used what it was given; else it refused. A fault is raised."""
    with bounded():
        try:
            read()
        except InlayError as problem:
            if not 2 <= problem.exit_code <= 5 or len(str(problem)) > LONGEST:
                raise AssertionError(f"{problem.exit_code}: {problem}") from None
            return False
    return True


def try_all(examples: int, damage: dict[Path, st.SearchStrategy[bytes]], read: Callable[[], Any]) -> None:
    """Damage one of the files after the other, and read; each is put back. Some of them must be refused."""
    whole = {path: path.read_bytes() for path in damage}
    outcomes = {True: 0, False: 0}

    @seeded(examples)
    @given(st.data())
    def once(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(list(damage)))
        path.write_bytes(data.draw(damage[path]))
        try:
            outcomes[attempt(read)] += 1
        finally:
            path.write_bytes(whole[path])

    read()
    once()
    assert sum(outcomes.values()) >= examples, outcomes
    assert outcomes[False] > examples / 10, outcomes
