"""Keys and values before those of the text, in an attention that goes through transformers' attention interface.

An attention module looks its function up under a name in its configuration. For the time of one call another
configuration stands in for it, whose name is that of `attend` here, which adds the keys and values, widens the mask and
calls the function that the model would have called. Everything else stays the model's own: its masks are made as ever,
and its cache holds the text alone, so nothing can be added twice.

Shape suffixes: B batch, H key heads, P prefix, Q queries, T text, C channels of a head.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.delta import Args, Delta, Kwargs
from ...errors import TargetError
from ...models import documents
from ...models.documents import Documents
from ...models.results import Result
from ...models.weights import Host
from .cache_argument import Earlier, widened, with_earlier

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"  # under this name every model of transformers knows the interface


class StandIn:
    """A configuration that is another one in all but the attention function."""

    _attn_implementation = "inlay_earlier_keys"

    def __init__(self, own: "PreTrainedConfig | StandIn", earlier: Earlier):
        self.own, self.earlier = own, earlier

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class EarlierKeys(Delta):
    """A delta at an attention module: `earlier` says which keys and values come before the text's, `count` how many."""

    count: int

    def earlier(self, key_BHTC: Tensor, value_BHTC: Tensor) -> tuple[Tensor, Tensor] | None:
        raise NotImplementedError

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if not uses_interface(host):
            return (), with_earlier(host, args, kwargs, self.earlier, self.count)
        _put_before(host, self.earlier)
        if has_relative_positions(host):
            _shift_text(host, self.count)
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        self.release(host)
        return result

    def release(self, host: Host) -> None:
        _restore(host)
        host.__dict__.pop("compute_bias", None)


def recorded(hosts: Sequence[Host], run: Callable[[], object]) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Return the keys and values, (B, H, T, C), of each host that `run` calls, in the order of the calls."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = []
    for host in hosts:
        record = partial(_record, found, host)
        if uses_interface(host):
            _put_before(host, record)
        else:
            hooks.append(host.register_forward_pre_hook(partial(_recording, record), with_kwargs=True))
    try:
        run()
    finally:
        for host in hosts:
            _restore(host)
        for hook in hooks:
            hook.remove()
    return found


def uses_interface(module: nn.Module) -> bool:
    forward = inspect.unwrap(type(module).forward)
    return _INTERFACE in forward.__code__.co_names and hasattr(module, "config")


def has_relative_positions(module: nn.Module) -> bool:
    """Tell whether this is the attention of a T5 that computes the positions' part of the scores, for later layers
    too.
    """
    return bool(getattr(module, "has_relative_attention_bias", False))


def attend(
    module: Any,
    query_BHQC: Tensor,
    key_BHTC: Tensor,
    value_BHTC: Tensor,
    attention_mask: Documents | Tensor | None = None,  # some models give it by this name
    **kwargs: Any,
) -> Any:
    mask = attention_mask
    keys, values, config = [key_BHTC], [value_BHTC], module.config
    while isinstance(config, StandIn):
        if (more := config.earlier(key_BHTC, value_BHTC)) is not None:
            key_HPC, value_HPC = more
            keys.insert(0, key_HPC.expand(len(key_BHTC), -1, -1, -1))
            values.insert(0, value_HPC.expand(len(value_BHTC), -1, -1, -1))
        config = config.own
    kind = config._attn_implementation
    if kind not in ("eager", "sdpa", documents.NAME):
        raise TargetError(
            f"a prefix needs eager or sdpa attention, not {kind}; load the base with attn_implementation='sdpa'"
        )
    names = inspect.unwrap(type(module).forward).__globals__
    function = names[_INTERFACE].get_interface(kind, names["eager_attention_forward"])
    if len(keys) == 1:
        return function(module, query_BHQC, key_BHTC, value_BHTC, mask, **kwargs)

    key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    count = key.shape[2] - key_BHTC.shape[2]
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    window = kwargs.get("sliding_window") or getattr(module, "sliding_window", None)
    if not causal or key.shape[2] <= (window or key.shape[2]):  # nothing of the prefix is out of the window yet
        window = None
    if window is not None and mask is None:
        mask = query_BHQC.new_ones(1, 1, query_BHQC.shape[2], key_BHTC.shape[2], dtype=torch.bool)
        mask = mask.tril(key_BHTC.shape[2] - query_BHQC.shape[2])
    if mask is None and kind != "eager" and causal and query_BHQC.shape[2] > 1:  # else sdpa would hide the prefix's end
        mask = query_BHQC.new_ones(1, 1, query_BHQC.shape[2], key_BHTC.shape[2], dtype=torch.bool).tril()
    bias = kwargs.get("position_bias")
    if bias is not None and bias.shape[-1] < key.shape[2]:  # without positions, as in cross-attention
        kwargs = kwargs | {"position_bias": widened(bias, key.shape[2] - bias.shape[-1])}
    if mask is not None:
        mask = mask.widened(count, window) if isinstance(mask, Documents) else widened(mask, count, window)
    return function(module, query_BHQC, key, value, mask, **kwargs)


def _put_before(attention: Any, earlier: Earlier) -> None:
    interface = inspect.unwrap(type(attention).forward).__globals__[_INTERFACE]
    if StandIn._attn_implementation not in interface:  # by the first call, so that nothing loads transformers before
        interface.register(StandIn._attn_implementation, attend)
    attention.config = StandIn(attention.config, earlier)


def _shift_text(attention: Any, count: int) -> None:
    attention.compute_bias = partial(_bias_of_shifted_text, attention.compute_bias, count)


def _restore(attention: Any) -> None:
    while isinstance(getattr(attention, "config", None), StandIn):
        attention.config = attention.config.own


def _recording(record: Earlier, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    return (), with_earlier(host, args, kwargs, record, 0)


def _record(
    found: dict[nn.Module, tuple[Tensor, Tensor]], host: nn.Module, key_BHTC: Tensor, value_BHTC: Tensor
) -> None:
    found[host] = key_BHTC, value_BHTC


def _bias_of_shifted_text(
    compute_bias: Callable[..., Tensor], count: int, queries: int, keys: int, past_seen_tokens: int = 0, **kwargs: Any
) -> Tensor:
    """Compute T5's part of the scores with the prefix at the first positions and the text after it."""
    return compute_bias(queries, keys + count, past_seen_tokens=past_seen_tokens + count, **kwargs)
