"""BitFit: train the biases and nothing else, y = x W' + (b + d).   https://arxiv.org/abs/2106.10199

Checkpoints hold the new biases themselves, not the differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ...core import weights
from ...core.delta import Delta
from ...core.method import Method
from ...core.replacement import Replacement
from ...core.sites import Sites
from ...errors import TargetError


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    name, family, paper = "bitfit", "selective", "https://arxiv.org/abs/2106.10199"
    summary = "the bias of every layer"
    learning_rate = 2e-3
    peft_type = "INLAY_BITFIT"

    add_missing: bool = False
    """Give each linear layer without a bias one that starts at zero; Llama and T5, for example, have none at all."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        found = False
        for name, module in sites.body():
            missing = self.add_missing and weights.is_linear(module)
            if module._parameters.get("bias") is not None or missing:
                found = True
                yield name, Replacement(module, ("bias",))
        if not found:
            raise TargetError(
                f"{type(sites.model).__name__} has no biases to train; set method.add_missing, or use another method"
            )
