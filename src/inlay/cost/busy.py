"""Whether the processor is free for a run: the times that are told beforehand know nothing of who else uses it."""

import time

import torch

from ..show.units import percent_text

_SECONDS = 0.2  # of work, several turns of whoever shares the processor
_NUMBERS = 2**21  # that are computed at once: every thread gets some
_FREE = 0.8  # of the time that threads can get; the rest is what they wait for one another


def processor_share() -> float:
    """Return the share of its threads' time that this process gets now; 1.0 if it is about all of it.

    It works for a moment on all threads, and compares the time that they got with the time that passed.
    """
    numbers = torch.zeros(_NUMBERS)
    numbers.cos_()  # the first starts the threads
    began, got = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - began) < _SECONDS:
        numbers.cos_()
    share = (time.process_time() - got) / (passed * torch.get_num_threads())
    return 1.0 if share > _FREE else share


def told_of_share(share: float) -> str | None:
    """Say that the times told are rough, if the processor is not free."""
    if share == 1.0:
        return None
    return (
        f"other programs, or a limit, leave this process {percent_text(share)} of its processor time now: the times "
        "told are rough"
    )
