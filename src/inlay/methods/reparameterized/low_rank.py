"""What LoRA trains at a host: a low-rank change W + s B A, with A (R, I) and B (O, R), and what may go with it.

`LowRank` is at a linear layer. An embedding (V, D) becomes E + s (B A)' with A (R, V) zero and B (D, R) normal; a
convolution's A is a convolution to R channels and its B a 1x1 convolution. `LowRankExperts` changes the matrices of a
mixture, `Biased` adds biases, `TokenRows` are rows of the token embedding.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attached.replacement import Replacement
from ...core.attachment import Attachment
from ...core.delta import Delta, WeightDelta
from ...errors import TargetError
from ...models import weights
from ...models.experts import Stack
from ...models.heads import input_embeddings
from ...models.sites import Sites
from ...models.weights import Host
from ..starts.kaiming import KAIMING
from ..starts.start import Start

CONVOLUTION: dict[type, Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class LowRank(WeightDelta):
    """A delta at a linear host; scaling and adding are part of the second product, so h is read and written once."""

    start_A: Tensor | None
    start_B: Tensor | None

    def __init__(self, host: Host, rank: int, scale: float, dropout: float, start: Start = KAIMING):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.resizable = start.shares_ranks
        a_RI, b_OR = start.matrices(host, rank, scale)
        self.lora_A, self.lora_B = nn.Parameter(a_RI), nn.Parameter(b_OR)
        self.register_buffer("start_A", a_RI.clone() if start.is_taken_away else None)
        self.register_buffer("start_B", b_OR.clone() if start.is_taken_away else None)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return A (R, I) and B (O, R): the change is `scale` times the second times the first."""
        if self.start_A is None or self.start_B is None:
            return self.lora_A, self.lora_B
        return _widened(self.lora_A, self.lora_B, self.start_A, self.start_B)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        a_RI, b_OR = self.matrices()
        return {"weight": (self.scale * b_OR, a_RI)}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        """Set the factors, for a delta that has no start of its own to take away."""
        self.lora_A.copy_(right)
        self.lora_B.copy_(left / self.scale)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        a_RI, b_OR = self.matrices()
        return {"weight": params["weight"] + self.scale * (b_OR @ a_RI)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.matrices()
        x_BTI = F.dropout(x_BTI, self.dropout, self.training)
        z_BTR = F.linear(x_BTI, a_RI.to(x_BTI.dtype))
        return plus_product(h_BTO, z_BTR, b_OR, self.scale)


def plus_product(h_BTO: Tensor, z_BTR: Tensor, b_OR: Tensor, scale: float = 1.0) -> Tensor:
    """Compute h + s z B', with h read once and the result written once."""
    h_NO, z_NR = h_BTO.reshape(-1, h_BTO.shape[-1]), z_BTR.reshape(-1, z_BTR.shape[-1])
    return torch.addmm(h_NO, z_NR, b_OR.to(z_BTR.dtype).T, alpha=scale).view(h_BTO.shape)


class LowRankEmbedding(WeightDelta):
    """A delta at an embedding (V, D), with A (R, V) and B (D, R)."""

    def __init__(self, host: nn.Embedding, rank: int, scale: float):
        super().__init__()
        device = weights.device(host)
        self.scale = scale
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, host.num_embeddings, device=device))
        self.lora_embedding_B = nn.Parameter(torch.randn(host.embedding_dim, rank, device=device))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {"weight": (self.scale * self.lora_embedding_A.T, self.lora_embedding_B.T)}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        self.lora_embedding_A.copy_(left.T / self.scale)
        self.lora_embedding_B.copy_(right.T)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] + self.scale * (self.lora_embedding_B @ self.lora_embedding_A).T}

    def edits_output(self, host: Host) -> bool:
        return type(host) is nn.Embedding  # a subclass may scale what it looks up

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        z_BTR = F.embedding(x_BTI, self.lora_embedding_A.T).to(h_BTO.dtype)
        return h_BTO + self.scale * F.linear(z_BTR, self.lora_embedding_B.to(h_BTO.dtype))


class LowRankConvolution(WeightDelta):
    """A delta at a convolution (O, I, *kernel), with A (R, I, *kernel) and B (O, R, 1, ...)."""

    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        out_channels, *kernel = weights.stored(host).shape  # (O, I, *kernel)
        device = weights.device(host)
        self.scale, self.dropout = scale, dropout
        self.lora_A = nn.Parameter(torch.empty(rank, *kernel, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(out_channels, rank, *[1] * (len(kernel) - 1), device=device))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors, where I counts the entries of a kernel over all input channels."""
        return {"weight": (self.scale * self.lora_B.flatten(1), self.lora_A.flatten(1))}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        self.lora_A.copy_(right.view_as(self.lora_A))
        self.lora_B.copy_((left / self.scale).view_as(self.lora_B))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        change = self.lora_B.flatten(1) @ self.lora_A.flatten(1)
        return {"weight": params["weight"] + self.scale * change.view(params["weight"].shape)}

    def edits_output(self, host: Host) -> bool:
        return True

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        x, convolution = F.dropout(x_BTI, self.dropout, self.training), host
        assert isinstance(convolution, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        z = convolution._conv_forward(x, self.lora_A.to(x.dtype), None)  # with the host's stride, padding and dilation
        return h_BTO + self.scale * CONVOLUTION[type(host)](z, self.lora_B.to(z.dtype))


def low_rank(adapter: Attachment) -> dict[str, LowRank]:
    """Find the adapter's low-rank deltas by host, without the heads."""
    return {host: delta for host, delta in adapter.deltas.items() if isinstance(delta, LowRank)}


def _widened(a_RI: Tensor, b_OR: Tensor, start_RI: Tensor, start_OR: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of twice the rank whose product is B A - B0 A0, written as (B - B0) A + B0 (A - A0).

    Small differences are taken here, in float32. In [B, -B0] [A; A0] they would be lost when the factors are rounded to
    16 bits, and the start would not be exactly the base.
    """
    return torch.cat([a_RI, a_RI - start_RI]), torch.cat([b_OR - start_OR, start_OR], dim=1)


class LowRankExperts(WeightDelta):
    """A low-rank change of every matrix of a stack of experts: W_e + s B_e A_e, with A (E, R, I) and B (E, O, R).

    The host is the module that keeps the stacks, of which one or several are changed, each with a rank and a scale.
    What it does with them is its own affair, so the changed stacks stand in for its parameters for one call. A router's
    single matrix can be changed likewise.
    """

    def __init__(
        self,
        host: Host,
        stacks: dict[str, Stack],
        strengths: dict[str, tuple[int, float]],
        start: Start = KAIMING,
    ):
        super().__init__()
        self.folds = tuple(stacks)
        for name, stack in stacks.items():  # add_module would refuse names that every module has as attributes
            self._modules[name] = Factors(stack, *strengths[name], start, weights.device(host))

    def of(self, name: str) -> "Factors":
        """Look up the factors of one of its parameters."""
        factors = self._modules[name]
        assert isinstance(factors, Factors)
        return factors

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors of each stack; a router's single matrix counts as a stack of one."""
        stacks = {name: (self.of(name).scale, *self.of(name).stacked()) for name in self.folds}
        return {name: (scale * b_EOR, a_ERI) for name, (scale, a_ERI, b_EOR) in stacks.items()}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        a_ERI, b_EOR = self.of(parameter).stacked()
        a_ERI.copy_(right)
        b_EOR.copy_(left / self.of(parameter).scale)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.of(name).changed(p) for name, p in params.items()}


def second_matrices(delta: Delta) -> list[nn.Parameter]:
    """Find B of a delta that LoRA places, or each stack's; none of one that is no product."""
    if isinstance(delta, LowRankExperts):
        return [delta.of(name).lora_B for name in delta.folds]
    if isinstance(delta, LowRankEmbedding):
        return [delta.lora_embedding_B]
    return [delta.lora_B] if isinstance(delta, LowRank | LowRankConvolution) else []


class Factors(nn.Module):
    """The factors of one parameter's matrices."""

    def __init__(self, stack: Stack, rank: int, scale: float, start: Start, device: torch.device):
        super().__init__()
        self.scale, self.flipped = scale, stack.flipped
        experts = () if stack.experts is None else (stack.experts,)
        a, b = start.matrices_of_stack(stack.experts or 1, stack.out_features, stack.in_features, rank, device)
        self.lora_A = nn.Parameter(a.view(*experts, rank, stack.in_features))
        self.lora_B = nn.Parameter(b.view(*experts, stack.out_features, rank))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Put A together as (E, R, I) and B as (E, O, R)."""
        return (self.lora_A, self.lora_B) if self.lora_A.ndim == 3 else (self.lora_A[None], self.lora_B[None])

    def changed(self, weight: Tensor) -> Tensor:
        """Return the changed matrices in the weight's dtype: one new tensor of its size, and no other."""
        left, right = self.lora_B.to(weight.dtype), self.lora_A.to(weight.dtype)
        if self.flipped:
            left, right = right.mT, left.mT
        add = torch.addmm if weight.ndim == 2 else torch.baddbmm
        with torch.autocast(weight.device.type, enabled=False):  # which would round the whole weight
            return add(weight, left, right, alpha=self.scale)


class Biased(WeightDelta):
    """A low-rank change that changes the host's bias as well: b' in place of b, and what B adds whatever its input is.

        y = W x + b' + s (B A x + c)

    Either may be absent. b' starts as the host's bias, c as zero.
    """

    scale: float
    host_bias: Tensor | None
    lora_B_bias: Tensor | None

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        bias_O = self.changed_bias(params.get("bias"))
        assert bias_O is not None
        return super().fold(params) | {"bias": bias_O}

    def changed_bias(self, bias_O: Tensor | None) -> Tensor | None:
        bias_O = bias_O if self.host_bias is None else self.host_bias
        if self.lora_B_bias is not None:
            bias_O = self.scale * self.lora_B_bias + (0 if bias_O is None else bias_O)
        return bias_O

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        # The difference first, which is in float32: rounding the two biases would lose a small change.
        own_O = weights.bias(host)
        change_O = 0 if self.host_bias is None or own_O is None else self.host_bias - own_O
        if self.lora_B_bias is not None:
            change_O = change_O + self.scale * self.lora_B_bias
        assert isinstance(change_O, Tensor)
        h_BTO = super().edit_output(host, x_BTI, h_BTO)
        return h_BTO + self.as_output(change_O.to(h_BTO.dtype))

    def as_output(self, bias_O: Tensor) -> Tensor:
        return bias_O


class BiasedLowRank(Biased, LowRank):
    pass


class BiasedConvolution(Biased, LowRankConvolution):
    def as_output(self, bias_O: Tensor) -> Tensor:
        return bias_O.view(-1, *[1] * (self.lora_A.ndim - 2))


BIASED: dict[type, type] = {LowRank: BiasedLowRank, LowRankConvolution: BiasedConvolution}


def with_bias(delta: Any, kinds: Mapping[type, type], name: str, host: Host, of_host: bool, of_change: bool) -> Any:
    """Let the delta train the host's bias too if `of_host` and there is one, and one of B if `of_change`.

    `kinds` has its class with biases by its class. Raises TargetError for a host that can have none.
    """
    bias_O = getattr(host, "bias", None) if of_host else None
    of_host = bias_O is not None
    if not of_host and not of_change:
        return delta
    if (kind := kinds.get(type(delta))) is None:
        raise TargetError(
            f"method.change_bias is set, but {name} is a {type(host).__name__}, which has no place for it"
        )
    delta.__class__ = kind  # what it has stays; only what it computes grows
    delta.folds = ("weight", "bias")
    size = weights.stored(host).shape[0] if isinstance(delta, LowRankConvolution) else weights.size(host)[0]
    own = None if bias_O is None else bias_O.detach().to(torch.float32, copy=True)
    delta.register_parameter("host_bias", None if own is None else nn.Parameter(own))
    zeros_O = torch.zeros(size, device=weights.device(host)) if of_change else None
    delta.register_parameter("lora_B_bias", None if zeros_O is None else nn.Parameter(zeros_O))
    return delta


def other_biases(sites: Sites, adapted: list[str], wanted: bool) -> Iterator[tuple[str, Delta]]:
    """Place deltas at the biases outside the adapted layers, if wanted. Raises TargetError if there are none at all."""
    owners = [n for n, m in sites.modules() if m._parameters.get("bias") is not None and not sites.in_head(n)]
    others = [name for name in owners if name not in adapted] if wanted else []
    if not others and not set(owners) & set(adapted):
        raise TargetError(f"method.bias is set, but {type(sites.model).__name__} has no such biases; set it to none")
    for name in others:
        yield name, Replacement(sites.module(name), ("bias",))


class TokenRows(WeightDelta):
    """Rows of the token embedding, N of V by D, that are trained in place of the base's, as new special tokens need.

    It is at an embedding, or at the linear layer that makes logits with the same weight: where the model looks tokens
    up in it in another place, the same rows serve.
    """

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

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        rows_ND = self.rows.to(h_BTO.dtype)
        if weights.is_linear(host):
            bias_O = weights.bias(host)
            bias_N = None if bias_O is None else bias_O[self.tokens]
            return h_BTO.index_copy(-1, self.tokens, F.linear(x_BTI, rows_ND, bias_N))
        found_BTN = x_BTI[..., None] == self.tokens
        return torch.where(found_BTN.any(-1, keepdim=True), rows_ND[found_BTN.int().argmax(-1)], h_BTO)


def token_rows(sites: Sites, tokens: tuple[int, ...], taken: set[str]) -> Iterator[tuple[str, Delta]]:
    """Place the rows of `tokens` at the token embedding and wherever else its weight is used.

    Raises TargetError if it has no such rows, or if its module is one of `taken`.
    """
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
