"""What the methods of virtual tokens share: how many there are, and how Hugging Face PEFT keeps them in a file."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from torch import Tensor

from ...core.method import Method
from ...formats.peft_config import PeftConfig
from ...formats.peft_format import PeftFormat
from ...models.sites import Sites
from ...ranges import TOKENS
from .readers import embedding_of, readers_of

KNOWN = frozenset(
    {"num_virtual_tokens", "num_transformer_submodules", "token_dim", "num_layers", "num_attention_heads"}
)
TokensT = TypeVar("TokensT", bound="VirtualTokens")


@dataclass(frozen=True, kw_only=True)
class TokensFormat(PeftFormat[TokensT]):
    read_by_peft: bool = True
    known: frozenset[str] | None = KNOWN
    head_prefix: str = "base_model."
    bare: tuple[str, ...] = ("prompt_embeddings",)
    """The tensors whose key is their name alone."""

    def key(self, host: str, parameter: str) -> str:
        return parameter if parameter in self.bare else f"{self.head_prefix}{host}.{parameter}"

    def config(self, method: TokensT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        config = sites.model.config
        return {
            "num_virtual_tokens": method.tokens,
            "num_transformer_submodules": 1,
            # which is not every model's hidden_size
            "token_dim": embedding_of(readers_of(sites)[0]).weight.shape[1],
            "num_layers": getattr(config, "num_hidden_layers", None),
            "num_attention_heads": getattr(config, "num_attention_heads", None),
        }

    def read_tensors(self, method: TokensT, config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # PEFT keeps a second prompt for an encoder-decoder's decoder, which its forward never reads.
        prompt = tensors.get("prompt_embeddings")
        if prompt is None or (config.get("num_transformer_submodules") or 1) == 1:
            return tensors
        return tensors | {"prompt_embeddings": prompt[: method.tokens]}


@dataclass(frozen=True, kw_only=True)
class VirtualTokens(Method):
    family = "prompts"

    tokens: Annotated[int, TOKENS] = 20
    """Number of virtual tokens."""

    @property
    def virtual_tokens(self) -> int:
        return self.tokens
