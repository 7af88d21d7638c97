"""The caches among what a module is called with."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


def caches_in(values: Iterable[object]) -> "list[Cache]":
    from transformers.cache_utils import Cache  # takes a second, and help is shown without a model

    return [value for value in values if isinstance(value, Cache)]


def counts(cache: "Cache") -> bool:
    """Tell whether the cache has layers of keys, which have a length; a layer with nothing but a state has none."""
    from transformers.cache_utils import CacheLayerMixin

    layers = getattr(cache, "layers", ())
    return not layers or any(isinstance(layer, CacheLayerMixin) for layer in layers)
