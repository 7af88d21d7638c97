"""LoRA: W + s B A, with A (R, I) and B (O, R), and s = alpha / rank.   https://arxiv.org/abs/2106.09685

rsLoRA is the same with s = alpha / sqrt(rank).   https://arxiv.org/abs/2312.03732

A starts as U(-1/sqrt(I), 1/sqrt(I)), as every implementation has it (the paper says Gaussian), B as zero; lora_init.py
has the other starts. An embedding (V, D) is adapted as E + s (B A)' with A (R, V) zero and B (D, R) normal; a
convolution's A is a convolution to R channels and its B a 1x1 convolution.

LoRA+ gives B a learning rate of its own, a multiple of A's.   https://arxiv.org/abs/2402.12354
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import sites as sites_
from ...core import weights
from ...core.delta import Delta, WeightDelta
from ...core.method import Method
from ...core.sites import Sites
from ...core.weights import Host
from ...errors import CheckpointError, SettingsError, TargetError
from . import eva, lora_init
from .lora_init import Initialization
from .patterns import check_patterns, first_fit, whole

if TYPE_CHECKING:
    from ...core.adapter import Adapter

_CONVOLUTION: dict[type, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    name, family, paper = "lora", "reparameterized", "https://arxiv.org/abs/2106.09685"
    summary = "two thin matrices beside each weight, whose product is added to it"
    learning_rate = 1e-3
    peft_type = "LORA"
    peft_reads = True
    decomposed: ClassVar[bool] = False  # what PEFT calls use_dora
    peft_fields = frozenset(
        {
            *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora"),
            *("fan_in_fan_out", "init_lora_weights", "eva_config", "ensure_weight_tying"),
            *("megatron_core", "qalora_group_size"),
        }
    )

    rank: int = 16
    """Width of the two matrices: the rank of the change."""
    alpha: float = 32.0
    """Strength: the change is scaled by alpha / rank. Keep it when the rank changes; the learning rate stays right."""
    targets: tuple[str, ...] = ("all-linear",)
    """Which layers: all-linear, attention, feedforward, ends of module names, or patterns of whole names (regex)."""
    dropout: float = 0.0
    """Probability with which a value of the adapter's input is dropped in training."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA)."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Another rank for modules whose name ends with a pattern (a regular expression); the first that fits counts."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Another alpha for modules, likewise."""
    initialization: Initialization = "kaiming"
    """Start of the matrices: kaiming (A random, B zero), gaussian (the same with a normal A), orthogonal (neither is
    zero, but their product is), pissa (the weight's largest singular directions), olora (the first of its QR
    decomposition) or eva (the directions in which the layer's inputs vary most on the training data)."""
    eva_rank_ratio: float = 2.0
    """With eva a layer can get up to this many times its rank, which others give up; 1 leaves the ranks as they are."""
    learning_rate_ratio: float = 1.0
    """Learning rate of B divided by that of A (LoRA+, which suggests 16)."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise SettingsError(f"method.rank is {rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.initialization not in get_args(Initialization):
            raise SettingsError(
                f"method.initialization is {self.initialization!r}; allowed: {', '.join(get_args(Initialization))}"
            )
        for rank in (self.rank, *self.rank_pattern.values()):
            if self.initialization == "orthogonal" and rank % 2:
                raise SettingsError(f"method.rank is {rank}; the orthogonal initialization needs an even one")
        for alpha in (self.alpha, *self.alpha_pattern.values()):
            if self.initialization == "pissa" and alpha <= 0:
                raise SettingsError(f"method.alpha is {alpha}; pissa needs it above 0")
        if self.eva_rank_ratio < 1:
            raise SettingsError(f"method.eva_rank_ratio is {self.eva_rank_ratio}; it must be at least 1")
        if self.learning_rate_ratio <= 0:
            raise SettingsError(f"method.learning_rate_ratio is {self.learning_rate_ratio}; it must be above 0")

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets, hosts=self.can_host)
        check_patterns((*self.rank_pattern, *self.alpha_pattern), names)
        for name in names:
            host = sites.model.get_submodule(name)
            rank = first_fit(self.rank_pattern, name, self.rank)
            scale = self.scale(rank, first_fit(self.alpha_pattern, name, self.alpha))
            self._check_start(name, host, rank)
            yield name, self.delta(host, rank, scale)

    def can_host(self, module: Host) -> bool:
        if type(module) in _CONVOLUTION:
            return module.groups == 1  # the change B A mixes all channels, which a grouped weight has no place for
        return weights.is_linear(module) or isinstance(module, nn.Embedding)

    def delta(self, host: Host, rank: int, scale: float) -> Delta:
        if isinstance(host, nn.Embedding):
            return LowRankEmbedding(host, rank, scale, self.dropout)
        if not weights.is_linear(host):
            return LowRankConvolution(host, rank, scale, self.dropout)
        return LowRank(host, rank, scale, self.dropout, self.initialization)

    def _check_start(self, name: str, host: Host, rank: int) -> None:
        if self.initialization == "kaiming":
            return
        if not weights.is_linear(host):
            raise TargetError(
                f"method.initialization is {self.initialization}, which only linear layers can have; "
                f"{name} is a {type(host).__name__}"
            )
        if self.initialization in ("pissa", "olora", "eva") and rank > min(weights.size(host)):
            raise TargetError(
                f"method.rank is {rank}, and {self.initialization} cannot find as many directions in the "
                f"{' x '.join(map(str, weights.size(host)))} weight of {name}; lower it, if only in method.rank_pattern"
            )

    def initialize_from_data(self, adapter: "Adapter", batches: Iterator[dict[str, Tensor]]) -> None:
        if self.initialization == "eva":
            eva.initialize(adapter.model, _low_rank(adapter), batches, self.eva_rank_ratio)

    def decided(self, adapter: "Adapter") -> dict[str, Any]:
        if self.initialization != "eva":
            return {}
        return {"ranks": {host: len(delta.lora_A) for host, delta in _low_rank(adapter).items()}}

    def parameter_groups(self, adapter: "Adapter", learning_rate: float) -> list[dict[str, Any]]:
        if self.learning_rate_ratio == 1:
            return super().parameter_groups(adapter, learning_rate)
        second = {
            id(p)
            for delta in adapter.deltas.values()
            for name, p in delta.named_parameters()
            if name in ("lora_B", "lora_embedding_B")
        }
        parameters = list(adapter.parameters())
        return [
            {"params": [p for p in parameters if id(p) not in second], "lr": learning_rate},
            {"params": [p for p in parameters if id(p) in second], "lr": learning_rate * self.learning_rate_ratio},
        ]

    def peft_key(self, host: str, parameter: str) -> str:
        # PEFT keeps linear and convolution factors in modules, whose tensors are named weight, and an embedding's bare.
        return super().peft_key(host, parameter) + (".weight" if parameter in ("lora_A", "lora_B") else "")

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        """Plain LoRA; with a start that was taken away, of twice the rank and as strong (see `LowRank.factors`)."""
        wider = 2 if self.initialization in lora_init.TAKEN_AWAY else 1
        stronger = math.sqrt(wider) if self.rank_stabilized else wider
        return {
            "r": wider * self.rank,
            "lora_alpha": stronger * self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilized,
            "rank_pattern": {pattern: wider * rank for pattern, rank in self.rank_pattern.items()},
            "alpha_pattern": {pattern: stronger * alpha for pattern, alpha in self.alpha_pattern.items()},
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.model.get_submodule(host)) for host in hosts),
            "bias": "none",
            "init_lora_weights": True,
            "use_dora": self.decomposed,
        }

    def to_peft(
        self, adapter: "Adapter", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A start that was taken away becomes part of the factors; ranks that eva chose are listed by module."""
        config, tensors = super().to_peft(adapter, sites, tensors)
        tensors, low_rank = dict(tensors), _low_rank(adapter)
        for host, delta in low_rank.items():
            if delta.start_A is not None:
                for name in ("start_A", "start_B"):
                    del tensors[self.peft_key(host, name)]
                for name, factor in zip(("lora_A", "lora_B"), delta.factors(), strict=True):
                    tensors[self.peft_key(host, name)] = factor.detach()
        if self.initialization == "eva":
            ranks = {host: len(delta.lora_A) for host, delta in low_rank.items()}
            strengths = {h: d.scale * ranks[h] ** (0.5 if self.rank_stabilized else 1) for h, d in low_rank.items()}
            config["rank_pattern"] = {whole(h): rank for h, rank in ranks.items() if rank != self.rank}
            config["alpha_pattern"] = {whole(h): alpha for h, alpha in strengths.items() if alpha != self.alpha}
        return config, tensors

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != "LORA" or bool(config.get("use_dora")) != cls.decomposed:
            return None
        if (init := config.get("init_lora_weights", True)) not in (True, False, "gaussian", "eva", "orthogonal"):
            raise CheckpointError(
                f"adapter_config.json: init_lora_weights is {init!r}, which changes the base model; "
                "convert the adapter to plain LoRA with PEFT first (path_initial_model_for_weight_conversion)"
            )
        targets = config["target_modules"]
        return cls(
            rank=config["r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout", 0.0),
            rank_stabilized=config.get("use_rslora", False),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
            targets=(targets,) if isinstance(targets, str) else tuple(targets),
        )


class LowRank(WeightDelta):
    """At a linear host; scaling and adding are part of the second matrix product, so h is read and written once."""

    start_A: Tensor | None
    start_B: Tensor | None

    def __init__(self, host: Host, rank: int, scale: float, dropout: float, initialization: Initialization = "kaiming"):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        a_RI, b_OR = lora_init.start(initialization, host, rank, scale)
        self.lora_A, self.lora_B = nn.Parameter(a_RI), nn.Parameter(b_OR)
        taken_away = initialization in lora_init.TAKEN_AWAY
        self.register_buffer("start_A", a_RI.clone() if taken_away else None)
        self.register_buffer("start_B", b_OR.clone() if taken_away else None)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(R, I) and (O, R): the change is `scale` times the second times the first."""
        if self.start_A is None or self.start_B is None:
            return self.lora_A, self.lora_B
        return _widened(self.lora_A, self.lora_B, self.start_A, self.start_B)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        a_RI, b_OR = self.factors()
        return {"weight": params["weight"] + self.scale * (b_OR @ a_RI)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.factors()
        x_BTI = F.dropout(x_BTI, self.dropout, self.training)
        z_BTR = F.linear(x_BTI, a_RI.to(x_BTI.dtype))
        return plus_product(h_BTO, z_BTR, b_OR, self.scale)


def plus_product(h_BTO: Tensor, z_BTR: Tensor, b_OR: Tensor, scale: float = 1.0) -> Tensor:
    """h + s z B', with h read once and the result written once."""
    h_NO, z_NR = h_BTO.reshape(-1, h_BTO.shape[-1]), z_BTR.reshape(-1, z_BTR.shape[-1])
    return torch.addmm(h_NO, z_NR, b_OR.to(z_BTR.dtype).T, alpha=scale).view(h_BTO.shape)


class LowRankEmbedding(WeightDelta):
    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        device = weights.device(host)
        self.scale = scale  # a token's row is looked up, not multiplied: there is no input to drop
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, host.num_embeddings, device=device))
        self.lora_embedding_B = nn.Parameter(torch.randn(host.embedding_dim, rank, device=device))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] + self.scale * (self.lora_embedding_B @ self.lora_embedding_A).T}

    def edits_output(self, host: Host) -> bool:
        return type(host) is nn.Embedding  # a subclass may scale what it looks up

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        z_BTR = F.embedding(x_BTI, self.lora_embedding_A.T).to(h_BTO.dtype)
        return h_BTO + self.scale * F.linear(z_BTR, self.lora_embedding_B.to(h_BTO.dtype))


class LowRankConvolution(WeightDelta):
    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        out_channels, *kernel = host.weight.shape  # (O, I, *kernel)
        device = weights.device(host)
        self.scale, self.dropout = scale, dropout
        self.lora_A = nn.Parameter(torch.empty(rank, *kernel, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(out_channels, rank, *[1] * (len(kernel) - 1), device=device))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        change = self.lora_B.flatten(1) @ self.lora_A.flatten(1)
        return {"weight": params["weight"] + self.scale * change.view(params["weight"].shape)}

    def edits_output(self, host: Host) -> bool:
        return True

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        x = F.dropout(x_BTI, self.dropout, self.training)
        z = host._conv_forward(x, self.lora_A.to(x.dtype), None)  # with the host's stride, padding and dilation
        return h_BTO + self.scale * _CONVOLUTION[type(host)](z, self.lora_B.to(z.dtype))


def _low_rank(adapter: "Adapter") -> dict[str, LowRank]:
    return {host: delta for host, delta in adapter.deltas.items() if isinstance(delta, LowRank)}


def _widened(a_RI: Tensor, b_OR: Tensor, start_RI: Tensor, start_OR: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of twice the rank whose product is B A - B0 A0, written as (B - B0) A + B0 (A - A0).

    Small differences are taken here, in float32. In [B, -B0] [A; A0] they would be lost when the factors are rounded to
    16 bits, and the start would not be exactly the base.
    """
    return torch.cat([a_RI, a_RI - start_RI]), torch.cat([b_OR - start_OR, start_OR], dim=1)
