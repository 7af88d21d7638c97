"""What a call's arguments say of earlier calls: whether there were any, and how many positions they computed."""

from collections.abc import Iterator

from transformers.cache_utils import Cache, CacheLayerMixin

from ...core.delta import Kwargs

_STATES = ("state", "mems")  # what models without a cache object hand on


def is_first_call(kwargs: Kwargs) -> bool:
    for cache in _caches(kwargs):
        return cache.get_seq_length() == 0 if _counts(cache) else not cache.has_previous_state()
    return all(kwargs.get(name) is None for name in _STATES)


def cached_positions(kwargs: Kwargs) -> int | None:
    """Count the positions that earlier calls computed; None where nothing counts them."""
    for cache in _caches(kwargs):
        return cache.get_seq_length() if _counts(cache) else None
    return None


def _caches(kwargs: Kwargs) -> Iterator[Cache]:
    return (value for value in kwargs.values() if isinstance(value, Cache))


def _counts(cache: Cache) -> bool:
    """Tell whether the cache has layers of keys, which have a length; a layer with nothing but a state has none."""
    layers = getattr(cache, "layers", ())
    return not layers or any(isinstance(layer, CacheLayerMixin) for layer in layers)
