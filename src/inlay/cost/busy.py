"""Whether other programs use the processor, of which the times that are told beforehand know nothing."""

import time

import torch

_SECONDS = 0.2  # of work, several turns of whoever shares the processor
_SIZE = 384  # of the matrices: a product is short, and its threads have much to do
_FREE = 0.8  # of the time that threads can get; the rest is what they wait for one another


def slowdown() -> float:
    """Return how many times as long a step takes while other programs use the processor; 1.0 if it is free.

    It works for a moment on all threads, and compares the time that they got with the time that passed.
    """
    factor = torch.ones(_SIZE, _SIZE)
    factor.mm(factor)  # the first product starts the threads
    began, got = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - began) < _SECONDS:
        factor.mm(factor)
    share = (time.process_time() - got) / (passed * torch.get_num_threads())
    return 1.0 if share > _FREE else 1 / max(share, 0.01)


def told_of_others(slower: float) -> str | None:
    """Say by what the times told are too short, if by anything worth saying."""
    if slower == 1.0:
        return None
    return f"other programs use the processor: while they do, all takes about {slower:.1f} times as long as told"
