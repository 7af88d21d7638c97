"""Learned factors of a linear layer's outputs or inputs, which start at one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import WeightDelta
from ...models import weights
from ...models.weights import Host


class ScaleOutput(WeightDelta):
    """The outputs from `start` on are scaled."""

    def __init__(self, host: Host, start: int):
        super().__init__()
        self.start = start
        self.folds = ("weight",) if getattr(host, "bias", None) is None else ("weight", "bias")
        self.ia3_l = nn.Parameter(torch.ones(weights.size(host)[0] - start, 1, device=weights.device(host)))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        scale_O1 = F.pad(self.ia3_l, (0, 0, self.start, 0), value=1.0)
        return {name: p * (scale_O1 if p.ndim == 2 else scale_O1.flatten()) for name, p in params.items()}

    def changed_bias(self, bias_O: Tensor | None) -> Tensor | None:
        return None if bias_O is None else self.fold({"bias": bias_O})["bias"]

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        return _scaled(h_BTO, F.pad(self.ia3_l.flatten() - 1, (self.start, 0)))


class ScaleInput(WeightDelta):
    def __init__(self, host: Host):
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(1, weights.size(host)[1], device=weights.device(host)))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] * self.ia3_l}

    def edit_input(self, host: Host, x_BTI: Tensor) -> Tensor:
        return _scaled(x_BTI, self.ia3_l.flatten() - 1)

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        return h_BTO


def _scaled(x: Tensor, change: Tensor) -> Tensor:
    """Compute x (1 + change) from the difference: in bfloat16 1.001 is 1."""
    return torch.addcmul(x, x, change.to(x.dtype))
