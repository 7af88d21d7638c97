"""How many passages a run measures: as many as are worth a twentieth of its training, which is counted, not timed.

A token that is trained on costs three forward passes: its own, and the backward pass, which is twice as long for a full
model, and with the optimizer about that for an adapter, too. A token of a passage costs two, before and after training.
"""

from collections.abc import Sequence

SHARE = 0.05

_TRAINED, _MEASURED = 3, 2  # forward passes


def affordable_tokens(trained: float) -> int:
    """Count the tokens of passages that a run can afford which trains on `trained` tokens."""
    return int(SHARE * trained * _TRAINED / _MEASURED)


def first_within(lengths: Sequence[int], tokens: int, fewest: int) -> int:
    """Count the passages, from the first on, that have at most so many tokens together, but at least `fewest`."""
    total, count = 0, 0
    for length in lengths:
        total += length
        if total > tokens and count >= fewest:
            break
        count += 1
    return count
