"""What the methods that put a prompt before the token embeddings share: the place, and one choice about classifiers.

A classifier's head may read the first position. Here that is the text's first token, which has seen the prompt; in
Hugging Face PEFT, which gives the head all positions, it is the prompt's first vector. Both can be had, and a file says
which it is: a type of ours for what PEFT would compute otherwise. Files of ours from before that choice are told from
PEFT's by the key `auto_mapping`, which those have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...core.delta import Delta
from ...models.sites import Sites
from .first_position import FirstPosition, read_by_head
from .soft_prompt import SoftPrompt, at_transformer
from .virtual_tokens import VirtualTokens

_OWN = "INLAY_"


@dataclass(frozen=True, kw_only=True)
class InputPrompt(VirtualTokens):
    peft_fields = VirtualTokens.peft_fields | {"first_position"}

    first_position: FirstPosition = "text"
    """What a classifier whose head reads the first position is given there: the text's first token, or the prompt's
    first vector, as in Hugging Face PEFT."""

    def prompt(self, sites: Sites, embedding: Any, keep: bool) -> SoftPrompt:
        """The prompt as it starts, of vectors that `embedding` could give."""
        raise NotImplementedError

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        return at_transformer(sites, lambda embedding, keep: self.prompt(sites, embedding, keep), self.first_position)

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        config = super().peft_config(sites, hosts)
        if self.first_position == "text" and read_by_head(sites).first:
            return config | {"peft_type": _OWN + self.peft_type, "first_position": "text"}
        return config if self.first_position == "text" else config | {"auto_mapping": None}

    @classmethod
    def is_type(cls, config: dict[str, Any]) -> bool:
        return config["peft_type"].removeprefix(_OWN) == cls.peft_type

    @staticmethod
    def first_position_of(config: dict[str, Any]) -> FirstPosition:
        theirs = config.get("task_type") in ("SEQ_CLS", None) and "auto_mapping" in config
        return config.get("first_position") or ("prompt" if theirs else "text")
