"""How many passages a run measures: as many as are worth a twentieth of its training, which is counted, not timed.

A token that is trained on costs three forward passes: its own, and the backward pass, which is twice as long for a full
model, and with the optimizer about that for an adapter, too. A token of a passage costs two, before and after training.
"""

from collections.abc import Sequence

SHARE = 0.05
FEWEST = 36  # three of each domain of builtin:passages, however short the run is

_TRAINED, _MEASURED = 3, 2  # forward passes


def affordable_tokens(trained: float) -> int:
    """Tokens of passages, for a run that trains on `trained` tokens."""
    return int(SHARE * trained * _TRAINED / _MEASURED)


def first_within(lengths: Sequence[int], tokens: int) -> int:
    """How many passages, from the first on, have at most that many tokens together, but at least FEWEST."""
    total, count = 0, 0
    for length in lengths:
        total += length
        if total > tokens and count >= FEWEST:
            break
        count += 1
    return count
