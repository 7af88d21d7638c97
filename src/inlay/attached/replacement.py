"""Trainable copies of some of a host's own parameters, used in their place: what selective methods and new heads are.

A linear host without a bias may get one, which starts at zero. A host whose parameters are all replaced is trained
whole, and so has buffers of its own too, such as running statistics: they are trained, saved and merged with it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..core.delta import Args, Kwargs, WeightDelta
from ..errors import TargetError
from ..models import weights
from ..models.weights import Host


class Replacement(WeightDelta):
    """Parameters that are trained whole, in copies that stand in for the host's own, with the host's statistics."""

    def __init__(self, host: Host, names: tuple[str, ...]):
        super().__init__()
        _check_trainable(host, names)
        self.names = names
        self.statistics = weights.statistics(host) if weights.parameter_names(host) <= set(names) else ()
        if elsewhere := [n for n in self.statistics if weights.value(host, n) is not weights.own(host, n)]:
            raise TargetError(
                f"the {elsewhere[0]} of a {type(host).__name__} is offloaded, where its training would be lost; "
                "load the base without offload_buffers, or leave this module out"
            )
        self.folds = names + self.statistics
        self.flipped = weights.is_flipped(host)
        for name in names:
            self.register_parameter(name, nn.Parameter(_start(host, name)))
        for name in self.statistics:
            self.register_buffer(name, _start(host, name))
        self._tied: dict[str, tuple[Replacement, str]] = {}  # whose parameters they are, so that each has one name
        self._base: dict[str, Tensor] = {}  # the host's buffers during a call

    def copies(self) -> dict[str, Tensor]:
        return {name: getattr(*self._tied[name]) if name in self._tied else getattr(self, name) for name in self.names}

    def tie(self, name: str, other: "Replacement", its_name: str) -> None:
        """Let `name` be the other one's parameter, unless it is."""
        if (other, its_name) != (self, name):
            del self._parameters[name]
            self._tied[name] = other, its_name

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {n: p.T if self.flipped and n == "weight" else p for n, p in self.copies().items()}
        return own | {name: getattr(self, name) for name in self.statistics}

    def changed_bias(self, bias_O: Tensor | None) -> Tensor | None:
        return self.copies().get("bias", bias_O)

    @property
    def replaces(self) -> tuple[str, ...]:
        return self.folds

    def edits_output(self, host: Host) -> bool:
        return weights.is_linear(host) and not self.statistics and set(self.names) <= {"weight", "bias"}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        folded = {name: p.to(h_BTO.dtype) for name, p in self.fold({}).items()}
        if "weight" in folded:
            return F.linear(x_BTI, folded["weight"], folded.get("bias", weights.bias(host)))
        # The difference first, which is in float32: rounding the two biases would lose a small change.
        bias_O, own_O = self.copies()["bias"], weights.bias(host)
        change_O = bias_O if own_O is None else bias_O - own_O
        return h_BTO + change_O.to(h_BTO.dtype)

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if self.edits_output(host):
            return super().before(host, args, kwargs)
        own = {name: p for name, p in host._parameters.items() if p is not None}
        weights.shadow(host, {name: p.to(own[name].dtype) for name, p in self.copies().items()})
        for name in self.statistics:  # not shadowed: a module may put another tensor in the place of its buffer
            base = host._buffers[name]
            assert base is not None
            self._base[name], host._buffers[name] = base, getattr(self, name).to(base.dtype)
        return args, kwargs

    def release(self, host: Host) -> None:
        super().release(host)
        for name, base in self._base.items():
            moved, host._buffers[name] = host._buffers[name], base
            if host.training and moved is not None and moved is not (own := getattr(self, name)):
                own.copy_(moved.detach())
        self._base.clear()


def _start(host: Host, name: str) -> Tensor:
    """Return a copy of the host's parameter or buffer, in float32 unless it counts something."""
    own = weights.value(host, name)
    if own is None:
        return torch.zeros(weights.size(host)[0], device=weights.device(host))
    own = own.detach()
    return own.to(torch.float32, copy=True) if own.is_floating_point() else own.clone()


def _check_trainable(host: Host, names: tuple[str, ...]) -> None:
    """Raise TargetError unless a call of the host reads plain numbers under these names."""
    kind = type(host).__name__
    for name in names or (("weight",) if weights.is_linear(host) else ()):
        own = getattr(host, name, None)
        if own is not None and not own.is_floating_point():
            raise TargetError(
                f"the {name} of a {kind} is packed ({own.dtype}) and cannot be trained; load the base in 16 or 32 "
                "bits, or choose a method that leaves its weights alone"
            )
    if weights.is_linear(host) and not names:
        raise TargetError(f"a {kind} has no parameters of its own that could be trained whole; leave it out")
    for hook in host._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm | WeightNorm) and any(name.startswith(hook.name) for name in names):
            raise TargetError(
                f"a {kind} computes its {hook.name} before each call (torch.nn.utils.weight_norm or spectral_norm), so "
                "that its parameters cannot be trained beside it; use torch.nn.utils.parametrizations instead"
            )
