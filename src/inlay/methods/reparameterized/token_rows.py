"""Rows of the token embedding that are trained in place of the base's, such as those of new special tokens.

Where the model makes its logits with the same weight, or looks tokens up in it in another place, the same rows serve.

Shape suffixes: N trained tokens, V vocabulary, D width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import Delta, WeightDelta
from ...errors import TargetError
from ...models import weights
from ...models.heads import input_embeddings
from ...models.sites import Sites
from ...models.weights import Host


def place(sites: Sites, tokens: tuple[int, ...], taken: set[str]) -> Iterator[tuple[str, Delta]]:
    """The rows of `tokens` at the token embedding and wherever else its weight is used. Raises TargetError if it has no
    such rows, or if its module is one of `taken`."""
    model = sites.model
    embedding = input_embeddings(model)
    weight = getattr(embedding, "weight", None)
    if not isinstance(embedding, nn.Embedding) or not isinstance(weight, Tensor):
        raise TargetError(f"method.tokens is set, but {type(model).__name__} has no token embedding")
    if wrong := [token for token in tokens if not 0 <= token < len(weight)]:
        raise TargetError(f"method.tokens has {wrong[0]}, but the embedding has {len(weight)} rows")
    rows_ND = nn.Parameter(weight.detach()[list(tokens)].float())
    names = {name: m for name, m in sites.modules() if getattr(m, "weight", None) is weight}
    first = next(name for name, m in names.items() if m is embedding)
    for name in [first, *(name for name in names if name != first)]:
        if name in taken or sites.in_head(name):
            raise TargetError(f"method.tokens trains rows of {name}, which is adapted or trained whole already")
        yield name, TokenRows(rows_ND, tokens)


class TokenRows(WeightDelta):
    """At an embedding, or at the linear layer that makes logits with the same weight."""

    def __init__(self, rows_ND: nn.Parameter, tokens: tuple[int, ...]):
        super().__init__()
        self.rows = rows_ND
        self.register_buffer("tokens", torch.tensor(tokens, device=rows_ND.device), persistent=False)

    tokens: Tensor

    def copies(self) -> dict[str, Tensor]:
        return {"weight": self.rows}

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"].index_copy(0, self.tokens, self.rows.to(params["weight"].dtype))}

    def edits_output(self, host: Host) -> bool:
        return weights.is_linear(host) or type(host) is nn.Embedding  # a subclass may scale what it looks up

    def edit_output(self, host: Any, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        rows_ND = self.rows.to(h_BTO.dtype)
        if weights.is_linear(host):
            bias_N = None if host.bias is None else host.bias[self.tokens]
            return h_BTO.index_copy(-1, self.tokens, F.linear(x_BTI, rows_ND, bias_N))
        found_BTN = x_BTI[..., None] == self.tokens
        return torch.where(found_BTN.any(-1, keepdim=True), rows_ND[found_BTN.int().argmax(-1)], h_BTO)
