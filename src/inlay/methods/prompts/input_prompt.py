"""What the methods that put a prompt before the token embeddings share: the place, and one choice about classifiers.

A classifier's head may read the first position. Here that is the text's first token, which has seen the prompt; in
Hugging Face PEFT, which gives the head all positions, it is the prompt's first vector. Both can be had, and a file says
which it is: a type of ours for what PEFT would compute otherwise. Files of ours from before that choice are told from
PEFT's by the key `auto_mapping`, which those have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ...core.delta import Delta
from ...formats.peft_config import PeftConfig
from ...formats.peft_format import OWN
from ...models.sites import Sites
from . import virtual_tokens
from .first_position import FirstPosition, read_by_head
from .soft_prompt import SoftPrompt, at_transformer
from .virtual_tokens import TokensFormat, VirtualTokens

KNOWN = virtual_tokens.KNOWN | {"first_position"}
PromptT = TypeVar("PromptT", bound="InputPrompt")


@dataclass(frozen=True, kw_only=True)
class PromptFormat(TokensFormat[PromptT]):
    def config(self, method: PromptT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        config = super().config(method, sites, hosts)
        if method.first_position == "text" and read_by_head(sites).first:
            return config | {"peft_type": OWN + self.peft_type, "first_position": "text"}
        return config if method.first_position == "text" else config | {"auto_mapping": None}

    def reads(self, config: PeftConfig) -> bool:
        return config["peft_type"].removeprefix(OWN) == self.peft_type

    def read(self, kind: type[PromptT], config: PeftConfig) -> PromptT:
        first = self._first_position(config)
        return kind(tokens=config["num_virtual_tokens"], first_position=first, **self.settings(config))

    def settings(self, config: PeftConfig) -> dict[str, object]:
        """Return the settings that only one of the methods has. Raises CheckpointError for some that cannot be."""
        return {}

    def _first_position(self, config: PeftConfig) -> FirstPosition:
        theirs = config.get("task_type") in ("SEQ_CLS", None) and "auto_mapping" in config
        return config.get("first_position") or ("prompt" if theirs else "text")


@dataclass(frozen=True, kw_only=True)
class InputPrompt(VirtualTokens):
    first_position: FirstPosition = "text"
    """What a classifier whose head reads the first position is given there: the text's first token, or the prompt's
    first vector, as in Hugging Face PEFT."""

    def prompt(self, sites: Sites, embedding: nn.Embedding, keep: bool) -> SoftPrompt:
        """Return the prompt as it starts, of vectors that `embedding` could give."""
        raise NotImplementedError

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        return at_transformer(sites, lambda embedding, keep: self.prompt(sites, embedding, keep), self.first_position)
