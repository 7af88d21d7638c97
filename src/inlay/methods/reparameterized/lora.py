"""LoRA: W + s B A, with A (R, I) and B (O, R), and s = alpha / rank.   https://arxiv.org/abs/2106.09685

rsLoRA is the same with s = alpha / sqrt(rank).   https://arxiv.org/abs/2312.03732

A starts as U(-1/sqrt(I), 1/sqrt(I)), as every implementation has it (the paper says Gaussian), B as zero. An embedding
(V, D) is adapted as E + s (B A)' with A (R, V) zero and B (D, R) normal; a convolution's A is a convolution to R
channels and its B a 1x1 convolution.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

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

_CONVOLUTION: dict[type, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    name, family, paper = "lora", "reparameterized", "https://arxiv.org/abs/2106.09685"
    summary = "two thin matrices beside each weight, whose product is added to it"
    learning_rate = 1e-3
    peft_type = "LORA"
    peft_reads = True
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

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise SettingsError(f"method.rank is {rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout is {self.dropout}; it must be at least 0 and below 1")

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets, hosts=_can_host)
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            if not any(_fits(pattern, name) for name in names):
                raise TargetError(f"pattern {pattern!r} fits none of the {len(names)} modules that targets selects")
        for name in names:
            host = sites.model.get_submodule(name)
            rank = _first_fit(self.rank_pattern, name, self.rank)
            scale = self.scale(rank, _first_fit(self.alpha_pattern, name, self.alpha))
            yield name, _delta_class(host)(host, rank, scale, self.dropout)

    def peft_key(self, host: str, parameter: str) -> str:
        # PEFT keeps linear and convolution factors in modules, whose tensors are named weight, and an embedding's bare.
        suffix = "" if parameter.startswith("lora_embedding_") else ".weight"
        return super().peft_key(host, parameter) + (suffix if parameter.startswith("lora_") else "")

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilized,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.model.get_submodule(host)) for host in hosts),
            "bias": "none",
            "init_lora_weights": True,
        }

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != "LORA" or config.get("use_dora"):
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

    def __init__(self, host: Host, rank: int, scale: float, dropout: float):
        super().__init__()
        out_features, in_features = weights.size(host)
        device = weights.device(host)
        self.scale, self.dropout = scale, dropout
        bound = 1 / math.sqrt(in_features)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, device=device).uniform_(-bound, bound))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": params["weight"] + self.scale * (self.lora_B @ self.lora_A)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        x_BTI = F.dropout(x_BTI, self.dropout, self.training)
        z_BTR = F.linear(x_BTI, self.lora_A.to(x_BTI.dtype))
        b_RO = self.lora_B.to(z_BTR.dtype).T
        h_NO, z_NR = h_BTO.reshape(-1, h_BTO.shape[-1]), z_BTR.reshape(-1, z_BTR.shape[-1])
        return torch.addmm(h_NO, z_NR, b_RO, alpha=self.scale).view(h_BTO.shape)


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


def _can_host(module: Host) -> bool:
    if type(module) in _CONVOLUTION:
        return module.groups == 1  # the change B A mixes all channels, which a grouped weight has no place for
    return weights.is_linear(module) or isinstance(module, nn.Embedding)


def _delta_class(host: Host) -> type[LowRank] | type[LowRankEmbedding] | type[LowRankConvolution]:
    if isinstance(host, nn.Embedding):
        return LowRankEmbedding
    return LowRank if weights.is_linear(host) else LowRankConvolution


def _fits(pattern: str, name: str) -> bool:
    """As Hugging Face PEFT reads rank_pattern and alpha_pattern."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _first_fit(patterns: dict[str, Any], name: str, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if _fits(pattern, name)), default)
