"""A low-rank change that changes the host's bias as well: b' in place of b, and what B adds whatever its input is.

    y = W x + b' + s (B A x + c)

Either may be absent. b' starts as the host's bias, c as zero.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...attached.replacement import Replacement
from ...core.delta import Delta, WeightDelta
from ...errors import TargetError
from ...models import weights
from ...models.sites import Sites
from ...models.weights import Host
from .decomposed import Decomposed
from .low_rank import LowRank, LowRankConvolution


def with_bias(delta: Any, name: str, host: Host, of_host: bool, of_change: bool) -> Any:
    """The same delta, which trains the host's bias too if `of_host` and there is one, and one of B if `of_change`.

    Raises TargetError for a host that can have none.
    """
    of_host = of_host and getattr(host, "bias", None) is not None
    if not of_host and not of_change:
        return delta
    if (kind := _KINDS.get(type(delta))) is None:
        raise TargetError(
            f"method.change_bias is set, but {name} is a {type(host).__name__}, which has no place for it"
        )
    delta.__class__ = kind  # what it has stays; only what it computes grows
    delta.folds = ("weight", "bias")
    size = host.weight.shape[0] if isinstance(delta, LowRankConvolution) else weights.size(host)[0]
    own = host.bias.detach().to(torch.float32, copy=True) if of_host else None
    delta.register_parameter("host_bias", None if own is None else nn.Parameter(own))
    zeros_O = torch.zeros(size, device=weights.device(host)) if of_change else None
    delta.register_parameter("lora_B_bias", None if zeros_O is None else nn.Parameter(zeros_O))
    return delta


def other_biases(sites: Sites, adapted: list[str], wanted: bool) -> Iterator[tuple[str, Delta]]:
    """The biases outside the adapted layers, if they are wanted. Raises TargetError if there is none anywhere."""
    owners = [n for n, m in sites.modules() if m._parameters.get("bias") is not None and not sites.in_head(n)]
    others = [name for name in owners if name not in adapted] if wanted else []
    if not others and not set(owners) & set(adapted):
        raise TargetError(f"method.bias is set, but {type(sites.model).__name__} has no such biases; set it to none")
    for name in others:
        yield name, Replacement(sites.module(name), ("bias",))


class _Biased(WeightDelta):
    scale: float
    host_bias: Tensor | None
    lora_B_bias: Tensor | None

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        bias_O = self.changed_bias(params.get("bias"))
        assert bias_O is not None
        return super().fold(params) | {"bias": bias_O}

    def changed_bias(self, bias_O: Tensor | None) -> Tensor | None:
        bias_O = bias_O if self.host_bias is None else self.host_bias
        if self.lora_B_bias is not None:
            bias_O = self.scale * self.lora_B_bias + (0 if bias_O is None else bias_O)
        return bias_O

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        # The difference first, which is in float32: rounding the two biases would lose a small change.
        change_O = 0 if self.host_bias is None else self.host_bias - host.bias
        if self.lora_B_bias is not None:
            change_O = change_O + self.scale * self.lora_B_bias
        assert isinstance(change_O, Tensor)
        h_BTO = super().edit_output(host, x_BTI, h_BTO)
        return h_BTO + self.as_output(change_O.to(h_BTO.dtype))

    def as_output(self, bias_O: Tensor) -> Tensor:
        return bias_O


class BiasedLowRank(_Biased, LowRank):
    pass


class BiasedDecomposed(_Biased, Decomposed):
    pass


class BiasedConvolution(_Biased, LowRankConvolution):
    def as_output(self, bias_O: Tensor) -> Tensor:
        return bias_O.view(-1, *[1] * (self.lora_A.ndim - 2))


_KINDS: dict[type, type] = {
    LowRank: BiasedLowRank,
    Decomposed: BiasedDecomposed,
    LowRankConvolution: BiasedConvolution,
}
