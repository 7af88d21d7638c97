"""LoRA, and rsLoRA, which scales otherwise.   https://arxiv.org/abs/2106.09685, https://arxiv.org/abs/2312.03732

A starts as U(-1/sqrt(I), 1/sqrt(I)), as every implementation has it (the paper says Gaussian). lora_init.py has the
other starts, low_rank.py embeddings and convolutions, lora_plus.py the learning rate of B.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from torch import Tensor, nn

from ...core.delta import Delta
from ...errors import SettingsError, TargetError
from ...models import experts, weights
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import FACTOR, RANK, RATIO, SHARE, Range
from . import eva, loftq, lora_init, lora_plus, token_rows
from .lora_init import Initialization
from .lora_peft import KNOWN, NAMES, LoRAFormat
from .low_rank import CONVOLUTION, LowRank, LowRankConvolution, LowRankEmbedding, low_rank
from .low_rank_bias import other_biases, with_bias
from .low_rank_experts import LowRankExperts
from .on_linear import OnLinear
from .patterns import check_patterns, first_fit, whole

if TYPE_CHECKING:
    from ...attached.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class LoRA(OnLinear):
    """Leaves each weight as it is and adds to its output what two thin matrices make of the same input.

                 ┌─────────────┐
             ┌──▶│    W O×I    │─────────────▶ + ──▶ y
             │   └─────────────┘               ▲
        x ───┤                                 │ · s
             │   ╔═══════╗     ╔═══════╗       │
             └──▶║ A R×I ║────▶║ B O×R ║───────┘
                 ╚═══════╝     ╚═══════╝

        W' = W + s B A    s = alpha / rank, or alpha / sqrt(rank) if rank_stabilized
        B starts at zero, so the model starts as the base

    When: Start with it. On instructions and classification with little to middling data it comes near full fine-tuning,
    if it is on all linear layers. Not where the file has to be much smaller (vera, ia3, prompts), and not for much that
    is new, as in further pretraining: there it learned less than full fine-tuning, and forgot less
    (https://arxiv.org/abs/2405.09673).

    Cost: Little for the optimizer to keep, beside a base that may be in 16 or 4 bits. A step takes about two thirds of
    full fine-tuning's arithmetic, plus the thin products. Merged, it costs nothing at inference; left unmerged it adds
    two thin products to each layer, and rows of one batch can have different adapters.
    """

    name, family, paper = "lora", "reparameterized", "https://arxiv.org/abs/2106.09685"
    summary = "two thin matrices beside each weight, whose product is added to it"
    learning_rate = 1e-3
    format = LoRAFormat(peft_type="LORA", read_by_peft=True, names=NAMES, known=KNOWN)

    rank: Annotated[int, RANK] = 16
    """Width of the two matrices: the rank of the change."""
    alpha: Annotated[float, FACTOR] = 32.0
    """Strength: the change is scaled by alpha / rank. Keep it when the rank changes; the learning rate stays right."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA)."""
    rank_pattern: Annotated[dict[str, int], RANK] = field(default_factory=dict)
    """Another rank for modules whose name ends with a pattern (a regular expression); the first that fits counts."""
    alpha_pattern: Annotated[dict[str, float], FACTOR] = field(default_factory=dict)
    """Another alpha for modules, likewise."""
    initialization: Initialization = "kaiming"
    """Start of the matrices: kaiming (A random, B zero), gaussian (the same with a normal A), orthogonal (neither is
    zero, but their product is), pissa (the weight's largest singular directions), olora (the first of its QR
    decomposition), eva (the directions in which the layer's inputs vary most on the training data) or loftq (what makes
    up best for a quantized weight's error)."""
    eva_rank_ratio: Annotated[float, Range(1, 1_000)] = 2.0
    """With eva a layer can get up to this many times its rank, which others give up; 1 leaves the ranks as they are."""
    learning_rate_ratio: Annotated[float, RATIO] = 1.0
    """Learning rate of B divided by that of A (LoRA+, which suggests 16)."""
    bias: Literal["none", "adapted", "all"] = "none"
    """Train biases of the base too: those of the adapted layers, or all."""
    change_bias: bool = False
    """Give the second matrix a bias, which is scaled like its product."""
    tokens: Annotated[tuple[int, ...], Range(0, 1_000_000_000)] = ()
    """Numbers of tokens whose embeddings are trained too, as new special tokens need."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranks, alphas = (self.rank, *self.rank_pattern.values()), (self.alpha, *self.alpha_pattern.values())
        lora_init.check_settings(self.initialization, ranks, alphas)
        if len(set(self.tokens)) < len(self.tokens):
            raise SettingsError(f"method.tokens is {' '.join(map(str, self.tokens))}; name each token once")

    @classmethod
    def of_ranks(cls, ranks: Mapping[str, int], scale: float = 1.0, **settings: Any) -> Self:
        """A LoRA at the modules that `ranks` names, each of its rank, all with the same alpha / rank, which is `scale`;
        for a reader that knows of no patterns, too."""
        largest = max(ranks.values())
        others = {whole(host): rank for host, rank in ranks.items() if rank != largest}
        alphas = {pattern: scale * rank for pattern, rank in others.items()}
        placed = {"targets": tuple(ranks), "rank_pattern": others, "alpha_pattern": alphas}
        return cls(**{"rank": largest, "alpha": scale * largest} | placed | settings)

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Give each module named its rank, as strong as now (alpha / rank is the same), and keep all else."""
        placed = self.of_ranks(ranks, self.alpha / self.rank)
        own = {name: getattr(placed, name) for name in ("rank", "alpha", "rank_pattern", "alpha_pattern")}
        return replace(self, **own)

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets, hosts=self.can_host)
        hosts = {name: sites.module(name) for name in names}
        others = [name for name, host in hosts.items() if not weights.is_linear(host)]
        stacks = {name: own for name in others if (own := sites.matrices(self.targets, name))}
        parameters = [f"{name}.{parameter}" for name, own in stacks.items() for parameter in own]
        check_patterns((*self.rank_pattern, *self.alpha_pattern), names + parameters)
        if self.initialization == "loftq":
            loftq.check(hosts)
        for name, host in hosts.items():
            rank, scale = self.strength(name)
            lora_init.check_host(self.initialization, name, host, rank)
            if name not in stacks:
                delta = self.delta(host, rank, scale)
                yield name, with_bias(delta, name, host, self.bias != "none", self.change_bias)
                continue
            if self.change_bias:
                raise TargetError(
                    f"method.change_bias is set, but {name} keeps its experts' weights in one parameter, whose changes "
                    "have no bias; leave it out, or choose targets without experts, such as attention"
                )
            if self.dropout:
                raise TargetError(
                    f"method.dropout is {self.dropout}, but {name} keeps its experts' weights in one parameter, whose "
                    "inputs cannot be dropped; set it to 0, or choose targets without experts, such as attention"
                )
            strengths = {parameter: self.strength(name, parameter) for parameter in stacks[name]}
            yield name, LowRankExperts(host, stacks[name], strengths, self.initialization)
        if self.bias != "none":
            yield from other_biases(sites, names, self.bias == "all")
        if self.tokens:
            yield from token_rows.place(sites, self.tokens, set(names))

    def strength(self, name: str, parameter: str | None = None) -> tuple[int, float]:
        """Rank and scale at the module `name`, or of its parameter: a pattern for the module counts for those, too."""
        rank, alpha = first_fit(self.rank_pattern, name, self.rank), first_fit(self.alpha_pattern, name, self.alpha)
        if parameter is not None:
            rank = first_fit(self.rank_pattern, f"{name}.{parameter}", rank)
            alpha = first_fit(self.alpha_pattern, f"{name}.{parameter}", alpha)
        return rank, self.scale(rank, alpha)

    def can_host(self, module: Host) -> bool:
        if type(module) in CONVOLUTION:
            return module.groups == 1  # the change B A mixes all channels, which a grouped weight has no place for
        return weights.is_linear(module) or isinstance(module, nn.Embedding) or bool(experts.matrices(module))

    def delta(self, host: Host, rank: int, scale: float) -> Delta:
        if isinstance(host, nn.Embedding):
            return LowRankEmbedding(host, rank, scale, self.dropout)
        if not weights.is_linear(host):
            return LowRankConvolution(host, rank, scale, self.dropout)
        return LowRank(host, rank, scale, self.dropout, self.initialization)

    def initialize_from_data(self, adapter: "Adapter", batches: Iterator[dict[str, Tensor]]) -> None:
        if self.initialization == "eva":
            eva.initialize(adapter.model, low_rank(adapter), batches, self.eva_rank_ratio)
        if self.initialization == "loftq":
            loftq.initialize(adapter.model, low_rank(adapter))

    def findings(self, adapter: "Adapter") -> dict[str, Any]:
        if self.initialization != "eva":
            return {}
        return {"ranks": {host: len(delta.lora_A) for host, delta in low_rank(adapter).items()}}

    def parameter_groups(self, adapter: "Adapter", learning_rate: float) -> list[dict[str, Any]]:
        if self.learning_rate_ratio == 1:
            return super().parameter_groups(adapter, learning_rate)
        return lora_plus.groups(adapter, learning_rate, self.learning_rate_ratio)
