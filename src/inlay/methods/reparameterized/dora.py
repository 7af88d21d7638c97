"""DoRA, weight-decomposed.   https://arxiv.org/abs/2402.09353

Another method of this name drops ranks while it trains: dynamic_rank.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.attachment import Attachment
from ...core.delta import Delta
from ...core.method import Rates
from ...formats.peft_config import PeftConfig
from ...models import weights
from ...models.weights import Host
from .decomposed import BiasedDecomposed, Decomposed
from .lora import KNOWN, NAMES, LoRA, LoRAFormat


class DoRAFormat(LoRAFormat["DoRA"]):
    def key(self, host: str, parameter: str) -> str:
        # PEFT saves the lengths bare and keeps them in a module, as the two matrices: transformers' load_adapter finds
        # them by the name that they have there only, and PEFT by either.
        return super().key(host, parameter) + (".weight" if parameter == "lora_magnitude_vector" else "")

    def read_tensors(self, method: "DoRA", config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"{key}.weight" if key.endswith(".lora_magnitude_vector") else key: t for key, t in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """LoRA for the direction of each row of a weight, and a vector for the rows' lengths.

        ┌───────┐       ╔═══════╗ ╔═══════╗
        │ W O×I │ + s · ║ B O×R ║·║ A R×I ║  =  V         which way each row points
        └───────┘       ╚═══════╝ ╚═══════╝
                            ╔═════╗
                  W'   =    ║  m  ║ · V / |V|             how long it is
                            ╚═════╝

        W' = m V / |V|        V = W + s B A; |V| is the length of each row,
                              a constant in the gradient; m (O) starts as |W|

    When: Where LoRA of a low rank falls short or is hard to train: the paper, with the same numbers or half as many,
    reports better results than LoRA. Not where LoRA is as good already. (Another paper's DoRA, which gives rank to the
    layers that use it, is dynamic-rank.)

    Cost: LoRA's, a vector for each layer, and the rows' lengths, which are computed from the thin matrices once after
    each step (a dropout makes each layer run twice). Merged, it costs nothing at inference.
    """

    name, paper = "dora", "https://arxiv.org/abs/2402.09353"
    summary = "LoRA for the direction of each row of a weight, and a vector for the rows' lengths"
    learning_rate = Rates(reading=1e-3, writing=4e-3)
    format = DoRAFormat(peft_type="LORA", read_by_peft=True, names=NAMES, known=KNOWN, decomposed=True)

    biased = {Decomposed: BiasedDecomposed}

    def can_host(self, module: Host) -> bool:
        return weights.is_linear(module)

    def delta(self, host: Host, rank: int, scale: float) -> Delta:
        return Decomposed(host, rank, scale, self.dropout, self.start)

    @torch.no_grad()
    def initialize_from_data(self, adapter: Attachment, batches: Iterator[dict[str, Tensor]]) -> None:
        super().initialize_from_data(adapter, batches)
        if self.start.moves_base:  # and so the lengths
            for _, host, delta in adapter.hosts():
                if isinstance(delta, Decomposed):
                    delta.lora_magnitude_vector.copy_(delta.norms(host))
