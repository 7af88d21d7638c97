"""Trainable copies of some of a host's own parameters, used in their place: what selective methods and new heads are.

A linear host without a bias may get one, which starts at zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TargetError
from . import weights
from .delta import WeightDelta
from .weights import Host


class Replacement(WeightDelta):
    def __init__(self, host: Host, names: tuple[str, ...]):
        super().__init__()
        self.folds = names
        self.flipped = weights.is_flipped(host)
        for name in names:
            own = host._parameters.get(name)
            if own is None:
                own = torch.zeros(weights.size(host)[0], device=weights.device(host))
            if not own.is_floating_point():
                raise TargetError(
                    f"the {name} of a {type(host).__name__} is packed ({own.dtype}) and cannot be trained; load the "
                    "base in 16 or 32 bits, or choose a method that leaves its weights alone"
                )
            self.register_parameter(name, nn.Parameter(own.detach().to(torch.float32, copy=True)))

    def copies(self) -> dict[str, Tensor]:
        """What stands in for the host's parameters, by their names there."""
        return dict(self.named_parameters())

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: p.T if self.flipped and n == "weight" else p for n, p in self.copies().items()}

    @property
    def replaces(self) -> tuple[str, ...]:
        return self.folds

    def edits_output(self, host: Host) -> bool:
        return weights.is_linear(host)

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        folded = {name: p.to(h_BTO.dtype) for name, p in self.fold({}).items()}
        if "weight" in folded:
            return F.linear(x_BTI, folded["weight"], folded.get("bias", getattr(host, "bias", None)))
        # The difference first, which is in float32: rounding the two biases would lose a small change.
        bias_O = self.get_parameter("bias")
        change_O = bias_O if host.bias is None else bias_O - host.bias
        return h_BTO + change_O.to(h_BTO.dtype)
