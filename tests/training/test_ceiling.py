"""What a process gives back to the system to stay near what it was told to take."""

import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from inlay.training import memory
from inlay.training.memory import CPU, Ceiling, memory_bytes


class Process:
    """A process whose memory falls to `least` when freed memory is given back, which takes so many seconds."""

    def __init__(self, least: int, seconds: float = 0.0):
        self.least, self.seconds = least, seconds
        self.taken, self.now, self.times = 0, 0.0, 0

    def give_back(self) -> None:
        self.times += 1
        self.now += self.seconds
        self.taken = min(self.taken, self.least)

    def steps(self, ceiling: Ceiling, taken: list[int]) -> Iterator[int]:
        """Yield after each step how often memory was given back; each takes a second."""
        for self.taken in taken:
            self.now += 1.0
            ceiling.after_step()
            yield self.times


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Process:
    made = Process(*request.param)
    monkeypatch.setattr(memory, "memory_bytes", lambda _: made.taken)
    monkeypatch.setattr(memory, "_give_back_freed", made.give_back)
    monkeypatch.setattr(memory, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


@pytest.mark.parametrize("process", [(500,)], indirect=True)
def test_memory_is_given_back_only_near_what_was_told(process: Process) -> None:
    assert list(process.steps(Ceiling(1000, CPU), [700, 799, 801, 700, 900])) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("process", [(900,)], indirect=True)
def test_what_does_not_help_is_not_done_again_before_the_process_has_grown(process: Process) -> None:
    assert list(process.steps(Ceiling(1000, CPU), [950, 940, 944, 950])) == [1, 1, 1, 2]


@pytest.mark.parametrize("process", [(500, 0.1)], indirect=True)
def test_it_takes_a_small_part_of_the_time(process: Process) -> None:
    assert list(process.steps(Ceiling(1000, CPU), [900] * 5)) == [1, 1, 2, 2, 3]
    process.times = 0
    assert max(process.steps(Ceiling(1000, CPU), [900] * 1000)) * 0.1 <= 0.06 * 1000


def test_an_accelerator_has_none() -> None:
    ceiling = Ceiling(1, torch.device("meta"))
    ceiling.after_step()
    assert ceiling.bytes == math.inf


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what was freed so")
def test_freed_pieces_are_given_back() -> None:
    pieces = [torch.ones(2**16) for _ in range(1000)]  # 256 KiB each, below what is mapped by itself once one was freed
    before = memory_bytes(CPU)
    pieces = pieces[::50]  # those that are left keep the others' pages
    if memory_bytes(CPU) < before - 100 * 2**20:
        pytest.skip("this allocator has given them back by itself")
    Ceiling(before, CPU).after_step()
    assert memory_bytes(CPU) < before - 100 * 2**20
