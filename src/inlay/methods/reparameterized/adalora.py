"""AdaLoRA: W + s P diag(E) Q with P'P = QQ' = I wanted, and a rank for each layer.   https://arxiv.org/abs/2303.10512

A component is a triplet of an entry of E, a column of P and a row of Q; s = alpha / initial rank. E starts as zero, P
and Q as N(0, 0.02^2). The loss gets orthogonality times the mean of |P'P - I| and |QQ' - I| over all layers.

A number p matters as far as the loss moves if it goes, I = |p dL/dp|. With its average J <- b1 J + (1 - b1) I and the
average of its uncertainty, U <- b2 U + (1 - b2) |I - J|, a triplet scores J U of its entry of E plus the means of J U
over its column and its row. The budget of triplets falls as a cubic, fast first, and the lowest scores lose their E.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ...core import sites as sites_
from ...core import weights
from ...core.sites import Sites
from ...errors import CheckpointError, SettingsError
from .components import Components, components
from .rank_budget import RankBudget, fast_first

if TYPE_CHECKING:
    from ...core.adapter import Adapter

_STEPS = 1000  # PEFT's phases are numbers of steps of one run; ours are shares, written as those of a run so long
_KEY = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(RankBudget):
    name, family, paper = "adalora", "reparameterized", "https://arxiv.org/abs/2303.10512"
    summary = "LoRA as P diag(E) Q, its rank shared out among the layers by how much the loss depends on each part"
    learning_rate = 5e-3
    peft_type = "ADALORA"
    peft_reads = True
    peft_names = {"coefficient": "lora_E"}
    peft_fields = frozenset(
        {
            *("target_r", "init_r", "tinit", "tfinal", "deltaT", "total_step", "beta1", "beta2", "orth_reg_weight"),
            *("lora_alpha", "lora_dropout", "rank_pattern", "fan_in_fan_out", "init_lora_weights"),
            *("r", "megatron_core", "qalora_group_size"),
        }
    )
    schedule = staticmethod(fast_first)

    alpha: float = 32.0
    """Strength: the change is scaled by alpha / initial rank."""
    beta1: float = 0.85
    """Share of the old average in that of how much the loss depends on a number."""
    beta2: float = 0.85
    """Share of the old average in that of how uncertain this is."""
    orthogonality: float = 0.1
    """Weight in the loss of how far P and Q are from orthogonal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= (beta := getattr(self, name)) < 1:
                raise SettingsError(f"method.{name} is {beta}; it must be at least 0 and below 1")
        if self.orthogonality < 0:
            raise SettingsError(f"method.orthogonality is {self.orthogonality}; it must be at least 0")

    def component_scale(self) -> float:
        return self.alpha / (self.initial_rank + 1e-5)  # as the authors' code and PEFT have it

    def start(self, delta: Components) -> None:
        nn.init.normal_(delta.lora_A, std=0.02)
        nn.init.normal_(delta.lora_B, std=0.02)

    def score(self, delta: Components) -> Tensor:
        of_e_R1, of_a_RI, of_b_OR = (self._dependence(delta, name) for name in ("coefficient", "lora_A", "lora_B"))
        return of_e_R1[:, 0] + of_a_RI.mean(1) + of_b_OR.mean(0)

    def _dependence(self, delta: Components, name: str) -> Tensor:
        p = delta.get_parameter(name)
        assert p.grad is not None
        now = (p * p.grad).abs()
        average = delta.average(name, now, self.beta1)
        return average * delta.average(f"{name} uncertainty", (now - average).abs(), self.beta2)

    def penalty(self, adapter: "Adapter") -> Tensor | None:
        if not self.orthogonality:
            return None
        distances = [
            torch.linalg.norm((gram - torch.eye(len(gram), device=gram.device)) * delta.kept * delta.kept.T)
            for _, delta in components(adapter)
            for gram in (delta.lora_A @ delta.lora_A.T, delta.lora_B.T @ delta.lora_B)
        ]
        return self.orthogonality * torch.stack(distances).mean()

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        first = min(round(_STEPS * self.initial_phase), _STEPS - 1)
        return {
            "init_r": self.initial_rank,
            "target_r": self.target_rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "total_step": _STEPS,
            "tinit": first,
            "tfinal": min(round(_STEPS * self.final_phase), _STEPS - 1 - first),
            "deltaT": self.interval,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "orth_reg_weight": self.orthogonality,
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.model.get_submodule(host)) for host in hosts),
            "bias": "none",
            "init_lora_weights": True,
        }

    def to_peft(
        self, adapter: "Adapter", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is not kept is left out of the tensors, and listed in rank_pattern."""
        config, tensors = super().to_peft(adapter, sites, tensors)
        pattern: dict[str, list[bool]] = {}
        for host, delta in components(adapter):
            kept = delta.kept[:, 0]
            pattern[f"{host}.lora_E"] = kept.tolist()
            del tensors[self.peft_key(host, "kept")]
            for name, dim in _RANK_DIM.items():
                key = self.peft_key(host, name)
                tensors[key] = tensors[key].index_select(dim, kept.nonzero()[:, 0])
        some_are_gone = not all(all(kept) for kept in pattern.values())
        return config | {"rank_pattern": pattern if some_are_gone else None}, tensors

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != cls.peft_type:
            return None
        if (init := config.get("init_lora_weights", True)) not in (True, False):
            raise CheckpointError(f"adapter_config.json: init_lora_weights is {init!r}, which AdaLoRA does not have")
        if (steps := config["total_step"]) < 1:
            raise CheckpointError(f"adapter_config.json: total_step is {steps}; it must be at least 1")
        return cls(
            initial_rank=config["init_r"],
            target_rank=config["target_r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout", 0.0),
            initial_phase=config.get("tinit", 0) / steps,
            final_phase=config.get("tfinal", 0) / steps,
            interval=config.get("deltaT", 1),
            beta1=config.get("beta1", 0.85),
            beta2=config.get("beta2", 0.85),
            orthogonality=config.get("orth_reg_weight", 0.5),
            targets=cls.peft_targets(config),
        )

    def from_peft_tensors(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The components that rank_pattern says are gone are there as zeros, so that training can go on."""
        tensors, pattern = dict(tensors), dict(config.get("rank_pattern") or {})
        for host in [key[len(_KEY) : -len(".lora_E")] for key in tensors if key.endswith(".lora_E")]:
            kept = torch.tensor(pattern.pop(f"{host}.lora_E", [True] * self.initial_rank), dtype=torch.bool)
            tensors[self.peft_key(host, "kept")] = kept.view(-1, 1)
            for name, dim in _RANK_DIM.items():
                if (key := self.peft_key(host, name)) in tensors:
                    tensors[key] = _spread(key, tensors[key], dim, kept)
        if pattern:
            raise CheckpointError(f"adapter_config.json: rank_pattern names {next(iter(pattern))}, which has no tensor")
        return tensors


_RANK_DIM = {"lora_A": 0, "lora_B": 1, "coefficient": 0}


def _spread(key: str, tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    if tensor.ndim != 2 or tensor.shape[dim] != kept.sum():
        raise CheckpointError(f"{key} has shape {tuple(tensor.shape)}, but rank_pattern keeps {int(kept.sum())} rows")
    shape = list(tensor.shape)
    shape[dim] = len(kept)
    return tensor.new_zeros(shape).index_copy(dim, kept.nonzero()[:, 0], tensor)
