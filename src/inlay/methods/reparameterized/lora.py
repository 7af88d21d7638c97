"""LoRA with all its variants, and how PEFT keeps it.   https://arxiv.org/abs/2106.09685

rsLoRA scales otherwise (https://arxiv.org/abs/2312.03732), and LoRA+ has B learn at another rate than A
(https://arxiv.org/abs/2402.12354). low_rank.py has what is trained at a host, starts/ where it begins, experts_peft.py
the file's form for mixtures of experts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from torch import Tensor, nn

from ...attached.adapter import Adapter
from ...attached.replacement import Replacement
from ...core.attachment import Attachment
from ...core.delta import Delta
from ...core.method import ParameterGroup, Rates
from ...errors import CheckpointError, SettingsError, TargetError
from ...formats.peft_config import PeftConfig
from ...models import experts, weights
from ...models import sites as sites_
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import FACTOR, RANK, RATIO, SHARE, Range
from ..starts import STARTS, Initialization
from ..starts.start import Start
from . import experts_peft
from .low_rank import (
    BIASED,
    CONVOLUTION,
    LowRank,
    LowRankConvolution,
    LowRankEmbedding,
    LowRankExperts,
    TokenRows,
    low_rank,
    other_biases,
    second_matrices,
    token_rows,
    with_bias,
)
from .on_linear import LinearFormat, OnLinear
from .patterns import Strengths, check_patterns, first_fit, whole

KNOWN = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora"),
        *("fan_in_fan_out", "init_lora_weights", "eva_config", "ensure_weight_tying"),
        *("bias", "lora_bias", "trainable_token_indices", "target_parameters"),
        "qalora_group_size",  # which says nothing without use_qalora
    }
)
NAMES = {  # of what a LoRA may train beside its two matrices
    "host_bias": "base_layer.bias",
    "lora_B_bias": "lora_B.bias",
    "rows": "token_adapter.trainable_tokens_delta",
}
_STARTS = {  # the values of init_lora_weights that leave a base to go back to
    **dict.fromkeys(("gaussian", "eva", "orthogonal", "mica"), "kaiming"),  # these do not change it
    "pissa": "pissa",
    "olora": "olora",
}
_BIAS = {"none": "none", "adapted": "lora_only", "all": "all"}


LoRAT = TypeVar("LoRAT", bound="LoRA")


@dataclass(frozen=True, kw_only=True)
class LoRAFormat(LinearFormat[LoRAT]):
    """LoRA as PEFT writes it: what starts or ranks of its own a run had becomes a plain LoRA in the file."""

    decomposed: bool = False  # what PEFT calls use_dora

    def key(self, host: str, parameter: str) -> str:
        # PEFT keeps linear and convolution factors in modules, whose tensors are named weight, and an embedding's bare.
        return super().key(host, parameter) + (".weight" if parameter in ("lora_A", "lora_B") else "")

    def reads(self, config: PeftConfig) -> bool:
        return super().reads(config) and bool(config.get("use_dora")) == self.decomposed

    def config(self, method: LoRAT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        strengths = self._strengths(method)
        return {
            "r": strengths.rank,
            "lora_alpha": strengths.alpha,
            "lora_dropout": method.dropout,
            "use_rslora": method.rank_stabilized,
            "rank_pattern": strengths.rank_pattern,
            "alpha_pattern": strengths.alpha_pattern,
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.module(host)) for host in hosts),
            "bias": _BIAS[method.bias],
            "lora_bias": method.change_bias,
            "init_lora_weights": True,
            "use_dora": self.decomposed,
            "trainable_token_indices": list(method.tokens) or None,
        }

    def _strengths(self, method: LoRAT) -> Strengths:
        """Return a plain LoRA's; with a start that was taken away, of twice the rank and as strong (see
        `LowRank.matrices`)."""
        wider = 2 if method.start.is_taken_away else 1
        stronger = math.sqrt(wider) if method.rank_stabilized else wider
        return Strengths(
            wider * method.rank,
            stronger * method.alpha,
            {pattern: wider * rank for pattern, rank in method.rank_pattern.items()},
            {pattern: stronger * alpha for pattern, alpha in method.alpha_pattern.items()},
        )

    def write(
        self, adapter: Adapter, method: LoRAT, sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Make a start that was taken away part of the factors, and list ranks that the data chose by module."""
        hosts = [host for host, _, delta in adapter.hosts() if not isinstance(delta, Replacement | TokenRows)]
        config, strengths = self.config(method, sites, hosts), self._strengths(method)
        tensors, deltas = dict(tensors), low_rank(adapter)
        for host, delta in deltas.items():
            if delta.start_A is not None:
                for name in ("start_A", "start_B"):
                    del tensors[self.key(host, name)]
                for name, factor in zip(("lora_A", "lora_B"), delta.matrices(), strict=True):
                    tensors[self.key(host, name)] = factor.detach()
        if method.start.shares_ranks:
            ranks = {host: len(delta.lora_A) for host, delta in deltas.items()}
            alphas = {h: d.scale * ranks[h] ** (0.5 if method.rank_stabilized else 1) for h, d in deltas.items()}
            strengths = replace(
                strengths,
                rank_pattern={whole(h): rank for h, rank in ranks.items() if rank != method.rank},
                alpha_pattern={whole(h): alpha for h, alpha in alphas.items() if alpha != method.alpha},
            )
            config |= {"rank_pattern": strengths.rank_pattern, "alpha_pattern": strengths.alpha_pattern}
        return experts_peft.in_peft_form(method, adapter, config, strengths, tensors)

    def targets(self, config: PeftConfig) -> tuple[str, ...]:
        parameters = tuple(config.get("target_parameters") or ())
        return (super().targets(config) if config["target_modules"] or not parameters else ()) + parameters

    def settings(self, config: PeftConfig) -> dict[str, object]:
        """Return LoRA's settings but for its targets. Raises CheckpointError for a base that was changed for good."""
        init = config.get("init_lora_weights", True)
        if init not in (True, False, *_STARTS):
            raise CheckpointError(
                f"adapter_config.json: init_lora_weights is {init!r}, which changed the base model in a way that "
                "cannot be repeated here; convert the adapter to plain LoRA with PEFT first "
                "(path_initial_model_for_weight_conversion)"
            )
        if (bias := config.get("bias") or "none") not in (known := {theirs: ours for ours, theirs in _BIAS.items()}):
            raise CheckpointError(f"adapter_config.json: bias is {bias!r}; known: {', '.join(known)}")
        if not isinstance(tokens := config.get("trainable_token_indices") or (), list | tuple):
            raise CheckpointError(
                f"adapter_config.json: trainable_token_indices is {tokens!r}; only rows of the input embedding can be "
                "read"
            )
        strengths = config.get("target_parameters")
        strengths = strengths if isinstance(strengths, dict) else {}  # as experts_peft has put it
        ranks = {whole(name): rank for name, (rank, _) in strengths.items()}
        alphas = {whole(name): alpha for name, (_, alpha) in strengths.items()}
        return {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "dropout": config.get("lora_dropout", 0.0),
            "rank_stabilized": config.get("use_rslora", False),
            "rank_pattern": ranks | (config.get("rank_pattern") or {}),
            "alpha_pattern": alphas | (config.get("alpha_pattern") or {}),
            "initialization": _STARTS.get(str(init), "kaiming"),
            "bias": known[bias],
            "change_bias": bool(config.get("lora_bias")),
            "tokens": tuple(tokens),
        }

    def in_own_form(
        self, model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor], asked: PeftConfig
    ) -> tuple[PeftConfig, dict[str, Tensor]]:
        if config["peft_type"] != self.peft_type:  # of a file that another method has written
            return config, tensors
        return experts_peft.in_own_form(model, config, tensors, asked)

    def from_base(self, method: LoRAT, adapter: Adapter) -> dict[str, Tensor]:
        """Compute what PEFT took out of the base's weights before training, which its file does not have.

        Raises CheckpointError for a layer whose start PEFT computes otherwise than it uses it.
        """
        starts = {}
        for host_name, delta in low_rank(adapter).items():
            if delta.start_A is None or delta.start_B is None:
                continue
            host = adapter.model.get_submodule(host_name)
            start = delta.start_A, delta.start_B
            if not delta.start_A.is_meta:
                start = method.start.from_base(host_name, host, len(delta.lora_A), delta.scale)
            starts |= dict(zip((f"{host_name}.start_A", f"{host_name}.start_B"), start, strict=True))
        return starts


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
    learning_rate = Rates(reading=1e-3, writing=4e-3)
    format = LoRAFormat(peft_type="LORA", read_by_peft=True, names=NAMES, known=KNOWN)

    biased: ClassVar[Mapping[type, type]] = BIASED  # deltas that can have biases

    rank: Annotated[int, RANK] = 16
    """Width of the two matrices: the rank of the change."""
    alpha: Annotated[float, FACTOR] = 32.0
    """Strength: the change is scaled by alpha / rank. Keep it when the rank changes; the learning rate stays right."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA)."""
    rank_pattern: Annotated[dict[str, int], RANK] = field(default_factory=dict)
    """Another rank for modules whose name ends with a pattern (a regular expression); the first match wins."""
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
        self.start.check(ranks, alphas)
        if len(set(self.tokens)) < len(self.tokens):
            raise SettingsError(f"method.tokens is {' '.join(map(str, self.tokens))}; name each token once")

    @property
    def start(self) -> Start:
        """Where the matrices begin."""
        return STARTS[self.initialization]

    @classmethod
    def of_ranks(cls, ranks: Mapping[str, int], scale: float = 1.0, **settings: Any) -> Self:
        """Return a LoRA at the modules that `ranks` names, each of its rank, all with the same alpha / rank, which is
        `scale`; for a reader that knows of no patterns, too.
        """
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
        self.start.check_hosts(hosts)
        for name, host in hosts.items():
            rank, scale = self.strength(name)
            self.start.check_host(name, host, rank)
            if name not in stacks:
                delta = self.delta(host, rank, scale)
                yield name, with_bias(delta, self.biased, name, host, self.bias != "none", self.change_bias)
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
            yield name, LowRankExperts(host, stacks[name], strengths, self.start)
        if self.bias != "none":
            yield from other_biases(sites, names, self.bias == "all")
        if self.tokens:
            yield from token_rows(sites, self.tokens, set(names))

    def strength(self, name: str, parameter: str | None = None) -> tuple[int, float]:
        """Rank and scale at the module `name`, or of its parameter: a pattern for the module counts for those, too."""
        rank, alpha = first_fit(self.rank_pattern, name, self.rank), first_fit(self.alpha_pattern, name, self.alpha)
        if parameter is not None:
            rank = first_fit(self.rank_pattern, f"{name}.{parameter}", rank)
            alpha = first_fit(self.alpha_pattern, f"{name}.{parameter}", alpha)
        return rank, self.scale(rank, alpha)

    def can_host(self, module: Host) -> bool:
        if type(module) in CONVOLUTION:
            return bool(module.groups == 1)  # B A mixes all channels, which a grouped weight has no place for
        return weights.is_linear(module) or isinstance(module, nn.Embedding) or bool(experts.matrices(module))

    def delta(self, host: Host, rank: int, scale: float) -> Delta:
        if isinstance(host, nn.Embedding):  # its rows are looked up, not multiplied: there is no input to drop
            return LowRankEmbedding(host, rank, scale)
        if not weights.is_linear(host):
            return LowRankConvolution(host, rank, scale, self.dropout)
        return LowRank(host, rank, scale, self.dropout, self.start)

    def initialize_from_data(self, adapter: Attachment, batches: Iterator[dict[str, Tensor]]) -> None:
        self.start.from_data(adapter.model, low_rank(adapter), batches, self.eva_rank_ratio)

    def findings(self, adapter: Attachment) -> dict[str, dict[str, int]]:
        if not self.start.shares_ranks:
            return {}
        return {"ranks": {host: len(delta.lora_A) for host, delta in low_rank(adapter).items()}}

    def parameter_groups(self, adapter: Attachment, learning_rate: float) -> list[ParameterGroup]:
        if self.learning_rate_ratio == 1:
            return super().parameter_groups(adapter, learning_rate)
        second = {id(p) for delta in adapter.deltas.values() for p in second_matrices(delta)}
        parameters = list(adapter.parameters())
        return [
            {"params": [p for p in parameters if id(p) not in second], "lr": learning_rate},
            {"params": [p for p in parameters if id(p) in second], "lr": learning_rate * self.learning_rate_ratio},
        ]
