"""What a call's arguments say of earlier calls: whether there were any, and how many positions they computed."""

from ...core.delta import Kwargs
from ...models.caches import caches_in, counts

_STATES = ("state", "mems")  # what models without a cache object hand on


def is_first_call(kwargs: Kwargs) -> bool:
    for cache in caches_in(kwargs.values()):
        return cache.get_seq_length() == 0 if counts(cache) else not cache.has_previous_state()
    return all(kwargs.get(name) is None for name in _STATES)


def cached_positions(kwargs: Kwargs) -> int | None:
    """Count the positions that earlier calls computed; None where nothing counts them."""
    for cache in caches_in(kwargs.values()):
        return cache.get_seq_length() if counts(cache) else None
    return None
