"""Which linear layers of an attention give its keys and values.

They are told by what they are called in there, as in every model that was looked at: key or k, value or v. One layer
may give both, or the queries too. Where the queries come first in such a layer they are left out; elsewhere the three
alternate from head to head, and all are scaled, as Hugging Face PEFT does.
"""

import re

from ...models import weights
from ...models.sites import Sites

# Models, by transformers' model_type, whose one layer gives all queries, then the keys, then the values.
QUERIES_FIRST = ("gpt2", "imagegpt", "mpt", "openai-gpt", "phi3")

_KEY, _VALUE, _BOTH = {"k", "key", "keys", "wk"}, {"v", "value", "values", "wv"}, {"kv", "wkv"}
_ALL = ({"qkv"}, {"wqkv"}, {"query", "key", "value"}, {"queries", "keys", "values"})
_SILENT = {"proj", "project", "projection", "lin", "linear", "layer", "to", "global", "w", "fc"}


def keys_values(sites: Sites) -> dict[str, int]:
    """Return the layers in the model's order, each with the first of its outputs that is a key or a value."""
    found: dict[str, int] = {}
    for block, own in sites.parts.items():
        for linears in own.attention:
            for name in _of_one(sites, block, linears):
                found[f"{block}.{name}"] = 0
            if linears and not any(f"{block}.{name}" in found for name in linears):
                found |= _fused(sites, block, linears)
    return {name: found[name] for name, _ in sites.modules() if name in found and name not in sites.bypassed}


def _of_one(sites: Sites, block: str, linears: list[str]) -> list[str]:
    words = {name: set(_words(name)) - _SILENT for name in linears}
    keys = [name for name in linears if words[name] and words[name] <= _KEY]
    values = [name for name in linears if words[name] and words[name] <= _VALUE]
    if keys and values:
        return [name for name in linears if name in keys or name in values]
    both = [name for name in linears if words[name] & _BOTH or (words[name] <= _KEY | _VALUE and len(words[name]) == 2)]
    return both[-1:]  # one that comes before another gives what the other makes keys and values of


def _fused(sites: Sites, block: str, linears: list[str]) -> dict[str, int]:
    """Return the one layer that gives queries, keys and values: it says so, or it is the first and as wide as the
    three.
    """
    config = sites.config_of(block)
    heads, own = (_number(config, name) for name in ("num_attention_heads", "head_dim"))
    width = sites.width(block)
    own = own or (width // heads if heads else None)
    named = [name for name in linears if set(_words(name)) - _SILENT in _ALL]
    fused = named or [name for name in linears if _size(sites, block, name) in _sizes(config, width, heads, own)]
    if not fused:
        return {}
    if not heads or not own:
        return {f"{block}.{fused[0]}": 0}
    outputs = _size(sites, block, fused[0])[0]
    one_key = outputs == (heads + 2) * own  # all queries share a key and a value, so they come first
    in_order = one_key or (getattr(config, "model_type", None) in QUERIES_FIRST and outputs > heads * own)
    return {f"{block}.{fused[0]}": heads * own if in_order else 0}


def _sizes(config: object, width: int, heads: int | None, own: int | None) -> set[tuple[int, int]]:
    found = {(3 * width, width)}
    if heads and own:
        kv = _number(config, "num_key_value_heads") or heads
        found |= {((heads + 2 * n) * own, width) for n in (heads, kv, 1)}
    return found


def _number(config: object, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


def _size(sites: Sites, block: str, name: str) -> tuple[int, int]:
    return weights.size(sites.module(f"{block}.{name}"))


def _words(name: str) -> list[str]:
    """Return the words of the last part of the name that says more than that it is a layer."""
    words: list[str] = []
    for part in reversed(name.split(".")):
        words = [word for word in re.split(r"[_\d]+", part.lower()) if word]
        if set(words) - _SILENT:
            break
    return words
