"""What a method would train on Llama 2 7B: it is placed there, on a model without values, and counted."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from ..attached.adapter import plan_attach
from ..core.delta import WeightDelta
from ..core.method import Method

BYTES_TO_TRAIN = 16  # of a parameter: its value, its gradient and AdamW's two averages, in float32


@dataclass(frozen=True, kw_only=True)
class OnLlama7B:
    settings: dict[str, object]  # those that are not the method's defaults
    trained: int
    total: int
    can_merge: bool  # whether the change can be written into the base's weights

    @property
    def share(self) -> float:
        return self.trained / self.total


@cache
def on_llama_7b(method: type[Method]) -> OnLlama7B:
    model = _empty()
    adapter = plan_attach(model, method(**method.example))
    return OnLlama7B(
        settings=method.example,
        trained=sum(p.numel() for p in adapter.parameters()),
        total=sum(p.numel() for p in model.parameters()),
        can_merge=all(isinstance(delta, WeightDelta) for delta in adapter.deltas.values()),
    )


@cache
def _empty() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)
