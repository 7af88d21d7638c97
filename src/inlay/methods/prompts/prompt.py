"""Prompt tuning: P learned embeddings before the input.   https://arxiv.org/abs/2104.08691"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ...core.delta import Delta
from ...core.sites import Sites
from ...errors import SettingsError
from .soft_prompt import LearnedPrompt, at_transformer
from .virtual_tokens import VirtualTokens

_SAMPLES = 1000  # tokens whose embeddings tell the spread of all


@dataclass(frozen=True, kw_only=True)
class PromptTuning(VirtualTokens):
    name, paper = "prompt", "https://arxiv.org/abs/2104.08691"
    summary = "a few embeddings that come before every input"
    learning_rate = 1e-2
    peft_type = "PROMPT_TUNING"
    peft_fields = VirtualTokens.peft_fields | {
        *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
    }

    initialization: Literal["vocabulary", "random"] = "vocabulary"
    """Start from embeddings of distinct tokens drawn from the vocabulary, or from noise of the embeddings' spread."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        return at_transformer(sites, lambda embedding, keep: LearnedPrompt(self._start(embedding), keep))

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        return super().peft_config(sites, hosts) | {"prompt_tuning_init": "RANDOM"}

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != "PROMPT_TUNING":
            return None
        return cls(tokens=config["num_virtual_tokens"])

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
