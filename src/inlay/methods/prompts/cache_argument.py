"""Keys and values before those of the text, in an attention that does not go through transformers' interface.

What such a module has in common with the others is the cache: it gives its keys and values to one and goes on with what
comes back. For one call something stands in for the cache, or for its absence, that gives back the earlier ones too;
the cache itself holds the text alone. The mask, and a bias that grows with the distance, get columns for them.

Shape suffixes: B batch, H key heads, P prefix, Q queries, T text, C channels of a head.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.delta import Args, Kwargs
from ...errors import TargetError
from ...models.documents import earlier_in_window
from ...models.weights import Host
from .placement import Placement

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

# Of the text's keys and values, (B, H, T, C): those that come before them, (H, P, C), if any.
Earlier = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]

_CACHES = ("layer_past", "past_key_values", "past_key_value")


class EarlierInCache:
    """The cache `own`, or none, whose answers have what `earlier` says in its `place` before the text."""

    def __init__(self, own: "Cache | None", earlier: Earlier, place: Placement):
        self.own, self.earlier, self.place = own, earlier, place

    def update(self, key_BHTC: Tensor, value_BHTC: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        found = key_BHTC, value_BHTC
        if self.own is not None:
            found = self.own.update(key_BHTC, value_BHTC, *args, **kwargs)
        if (more := self.earlier(key_BHTC, value_BHTC)) is None:
            return found
        key, value = (
            self.place.join(own_HPC.transpose(0, 1)[None], text.transpose(1, 2)).transpose(1, 2)
            for own_HPC, text in zip(more, found, strict=True)
        )
        return key, value

    def get_seq_length(self, *args: int) -> int:
        return self.place.count + (0 if self.own is None else self.own.get_seq_length(*args))


def takes_cache(module: nn.Module) -> bool:
    """Tell whether the module itself gives its keys and values to a cache."""
    code = inspect.unwrap(type(module).forward).__code__
    return "update" in code.co_names and _cache_argument(module) is not None


def with_earlier(host: Host, args: Args, kwargs: Kwargs, earlier: Earlier, count: int) -> Kwargs:
    """Return the call's arguments with `earlier` in the place of the cache, and `count` columns more where there is one
    for each key.

    A module may count distances by index, so the earlier keys stand right before each row's first visible token.
    """
    given = dict(zip(inspect.signature(host.forward).parameters, args, strict=False)) | kwargs
    name = _cache_argument(host)
    assert name is not None
    own, x = given.get(name), next(t for t in given.values() if isinstance(t, Tensor))
    kind = getattr(getattr(host, "config", None), "_attn_implementation", "eager")
    alibi, mask, place = given.get("alibi"), given.get("attention_mask"), Placement(count, None)
    if alibi is not None and alibi.ndim != 3:
        raise TargetError(
            f"the bias for distances of {type(host).__name__} is in its mask, where a prefix has no place"
        )
    if alibi is not None and count:
        given["alibi"] = _with_earlier_bias(host, alibi, count)
    if mask is not None and count:
        hidden = mask.dtype == torch.bool and kind == "eager"  # True is what nothing sees
        if alibi is None and len(mask) == len(x):
            last_BK = mask[:, 0, -1]
            seen_BK = ~last_BK if hidden else last_BK if mask.dtype == torch.bool else last_BK == 0
            place = Placement(count, (seen_BK.cumsum(1) == 0).sum(1))
        mask_BK1Q = mask.permute(0, 3, 1, 2)
        more = mask.new_full((1, count, *mask_BK1Q.shape[2:]), mask.dtype == torch.bool and not hidden)
        given["attention_mask"] = place.join(more, mask_BK1Q).permute(0, 2, 3, 1)
    elif count and x.shape[1] > 1 and kind == "sdpa":  # which would hide the prefix's end
        index = getattr(host, "layer_idx", 0)
        keys = x.shape[1] + (0 if own is None else own.get_seq_length(index))
        own_QT = x.new_ones(1, 1, x.shape[1], keys, dtype=torch.bool).tril(keys - x.shape[1])
        given["attention_mask"] = widened(own_QT, count)
    return given | {name: EarlierInCache(own, earlier, place)}


def widened(mask: Tensor, count: int, window: int | None = None) -> Tensor:
    """Return a mask, or what is added to the scores, with `count` keys more that everything sees, but for those that a
    window has left behind.
    """
    visible = torch.full((*mask.shape[:-1], count), mask.dtype == torch.bool, dtype=mask.dtype, device=mask.device)
    if window is not None:
        own = mask if mask.dtype == torch.bool else mask == 0
        seen = earlier_in_window(own, count, window)
        visible = seen if mask.dtype == torch.bool else visible.masked_fill(~seen, torch.finfo(mask.dtype).min)
    return torch.cat([visible, mask], dim=-1)


def _with_earlier_bias(host: Host, alibi_NT: Tensor, count: int) -> Tensor:
    """Return Bloom's bias (rows · heads, 1, T), which counts from a row's first token, with what P keys before that
    get.
    """
    build = inspect.unwrap(type(host).forward).__globals__["build_alibi_tensor"]
    steps_H = build(torch.ones(1, 2, device=alibi_NT.device), host.num_heads, alibi_NT.dtype)[:, 0, 1]
    before_P = torch.arange(-count, 0, device=alibi_NT.device)
    before_HP = (steps_H[:, None] * before_P).to(alibi_NT.dtype)
    return torch.cat([before_HP[:, None].repeat(len(alibi_NT) // len(steps_H), 1, 1), alibi_NT], dim=-1)


def _cache_argument(module: nn.Module) -> str | None:
    arguments = inspect.signature(module.forward).parameters
    return next((name for name in _CACHES if name in arguments), None)
