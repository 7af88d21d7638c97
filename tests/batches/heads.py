"""Causal models whose logits are not the plain product of the last hidden state with the head."""

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch.nn import functional as F

from ..shapes import VOCABULARY


def finishing_models() -> Iterator[Any]:
    yield wild(transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**small(), final_logit_softcapping=3.0)))
    yield wild(transformers.GraniteForCausalLM(transformers.GraniteConfig(**small(), logits_scaling=7.0)))
    yield wild(transformers.CohereForCausalLM(transformers.CohereConfig(**small(), logit_scale=0.3)))


class Multiplied(transformers.LlamaForCausalLM):
    """Divides by a number that others multiply with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = super().forward(*args, **kwargs | {"labels": None})
        result.logits = result.logits / self.config.logit_scale
        if (labels := kwargs.get("labels")) is not None:
            result.loss = F.cross_entropy(result.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return result


class Shifted(transformers.LlamaForCausalLM):
    """Does to its logits what no configuration tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.pop("labels", None)
        result = super().forward(*args, **kwargs)
        result.logits = result.logits + torch.linspace(0, 1, VOCABULARY)
        if labels is not None:
            result.loss = F.cross_entropy(result.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return result


class WithoutHead(transformers.LlamaForCausalLM):
    """Multiplies with its head's weight, and never calls the head."""

    def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        x = self.model(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        logits = x @ self.lm_head.weight.T
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return transformers.modeling_outputs.CausalLMOutputWithPast(loss=loss, logits=logits)


def small() -> dict[str, Any]:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return shape | tokens | {"num_key_value_heads": 2, "head_dim": 8, "use_cache": False}


def wild(model: Any) -> Any:
    """Enlarge the weights until the logits are far from each other."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model
