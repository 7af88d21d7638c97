"""Prompt tuning: P learned embeddings before the input.   https://arxiv.org/abs/2104.08691"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ...core.delta import Delta
from ...core.method import Method
from ...core.sites import Sites
from ...errors import SettingsError, TargetError
from .soft_prompt import PromptInCrossAttention, SoftPrompt

_SAMPLES = 1000  # tokens whose embeddings tell the spread of all


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Method):
    name, family, paper = "prompt", "prompt", "https://arxiv.org/abs/2104.08691"
    summary = "a few embeddings that come before every input"
    learning_rate = 1e-2
    peft_type = "PROMPT_TUNING"
    peft_reads = True
    peft_fields = frozenset(
        {
            *("num_virtual_tokens", "num_transformer_submodules", "token_dim", "num_layers", "num_attention_heads"),
            *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
        }
    )
    peft_head_prefix = "base_model."

    tokens: int = 20
    """Number of learned embeddings."""
    initialization: Literal["vocabulary", "random"] = "vocabulary"
    """Start from embeddings of distinct tokens drawn from the vocabulary, or from noise of the embeddings' spread."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise SettingsError(f"method.tokens is {self.tokens}; it must be at least 1")

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        transformer, decoder = _transformers(sites)
        names = {id(module): name for name, module in sites.modules()}
        prompt_PD = self._start(transformer.get_input_embeddings())
        yield names[id(transformer)], SoftPrompt(prompt_PD, keep=decoder is not None)
        if decoder is not None:
            yield names[id(decoder)], PromptInCrossAttention(self.tokens)

    def peft_key(self, host: str, parameter: str) -> str:
        return parameter if parameter == "prompt_embeddings" else f"{self.peft_head_prefix}{host}.{parameter}"

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        config = sites.model.config
        embedding = _transformers(sites)[0].get_input_embeddings()
        return {
            "num_virtual_tokens": self.tokens,
            "prompt_tuning_init": "RANDOM",
            "num_transformer_submodules": 1,
            "token_dim": embedding.weight.shape[1],  # which is not every model's hidden_size
            "num_layers": getattr(config, "num_hidden_layers", None),
            "num_attention_heads": getattr(config, "num_attention_heads", None),
        }

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != "PROMPT_TUNING":
            return None
        return cls(tokens=config["num_virtual_tokens"])

    def from_peft_tensors(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # PEFT keeps a second prompt for an encoder-decoder's decoder, which its forward never reads.
        prompt = tensors.get("prompt_embeddings")
        if prompt is None or (config.get("num_transformer_submodules") or 1) == 1:
            return tensors
        return tensors | {"prompt_embeddings": prompt[: self.tokens]}

    @torch.no_grad()
    def _start(self, embedding: Any) -> Tensor:
        vocabulary, width = embedding.weight.shape
        if self.initialization == "vocabulary" and self.tokens > vocabulary:
            raise SettingsError(f"method.tokens is {self.tokens}, more than the vocabulary of {vocabulary}")
        device = embedding.weight.device
        drawn = torch.randperm(vocabulary, device=device)[: max(self.tokens, _SAMPLES)]
        rows_VD = embedding.forward(drawn)  # not its weight: some embeddings scale what they look up
        if self.initialization == "vocabulary":
            return rows_VD[: self.tokens]
        return torch.randn(self.tokens, width, device=device) * rows_VD.float().std()


def _transformers(sites: Sites) -> tuple[Any, Any]:
    """The transformer that reads the input, and the decoder that reads its result, if there is one."""
    model = sites.model
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if not hasattr(model, "config") or getattr(getattr(embeddings, "weight", None), "ndim", 0) != 2:
        raise TargetError(f"{type(model).__name__} has no token embeddings that a prompt could join")
    if model.config.is_encoder_decoder:
        return model.get_encoder(), model.get_decoder()
    return model.get_decoder(), None  # an encoder too; not base_model, whose forward some models go past
