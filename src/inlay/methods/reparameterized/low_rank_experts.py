"""A low-rank change of every matrix of a stack of experts: W_e + s B_e A_e, with A (E, R, I) and B (E, O, R).

The host is the module that keeps the stacks. What it does with them is its own affair, so the changed stacks stand in
for its parameters for one call. A router's single matrix can be changed likewise.
"""

import torch
from torch import Tensor, nn

from ...core.delta import WeightDelta
from ...models import weights
from ...models.experts import Stack
from ...models.weights import Host
from . import lora_init
from .lora_init import Initialization


class LowRankExperts(WeightDelta):
    """At one module, for one or several of its parameters, which each have a rank and a scale."""

    def __init__(
        self,
        host: Host,
        stacks: dict[str, Stack],
        strengths: dict[str, tuple[int, float]],
        initialization: Initialization = "kaiming",
    ):
        super().__init__()
        self.folds = tuple(stacks)
        for name, stack in stacks.items():  # add_module would refuse names that every module has as attributes
            self._modules[name] = Factors(stack, *strengths[name], initialization, weights.device(host))

    def of(self, name: str) -> "Factors":
        """The factors of one of its parameters."""
        factors = self._modules[name]
        assert isinstance(factors, Factors)
        return factors

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A router's single matrix counts as a stack of one."""
        stacks = {name: (self.of(name).scale, *self.of(name).stacked()) for name in self.folds}
        return {name: (scale * b_EOR, a_ERI) for name, (scale, a_ERI, b_EOR) in stacks.items()}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        a_ERI, b_EOR = self.of(parameter).stacked()
        a_ERI.copy_(right)
        b_EOR.copy_(left / self.of(parameter).scale)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.of(name).changed(p) for name, p in params.items()}


class Factors(nn.Module):
    """The factors of one parameter's matrices."""

    def __init__(self, stack: Stack, rank: int, scale: float, initialization: Initialization, device: torch.device):
        super().__init__()
        self.scale, self.flipped = scale, stack.flipped
        experts = () if stack.experts is None else (stack.experts,)
        a, b = lora_init.start_of_stack(
            initialization, stack.experts or 1, stack.out_features, stack.in_features, rank, device
        )
        self.lora_A = nn.Parameter(a.view(*experts, rank, stack.in_features))
        self.lora_B = nn.Parameter(b.view(*experts, stack.out_features, rank))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """A (E, R, I) and B (E, O, R)."""
        return (self.lora_A, self.lora_B) if self.lora_A.ndim == 3 else (self.lora_A[None], self.lora_B[None])

    def changed(self, weight: Tensor) -> Tensor:
        """The changed matrices in the weight's dtype: one new tensor of its size, and no other."""
        left, right = self.lora_B.to(weight.dtype), self.lora_A.to(weight.dtype)
        if self.flipped:
            left, right = right.mT, left.mT
        add = torch.addmm if weight.ndim == 2 else torch.baddbmm
        with torch.autocast(weight.device.type, enabled=False):  # which would round the whole weight
            return add(weight, left, right, alpha=self.scale)
