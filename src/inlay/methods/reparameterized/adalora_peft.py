"""AdaLoRA as Hugging Face PEFT writes it: dropped components are not among the tensors; rank_pattern lists them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...attached.adapter import Adapter
from ...errors import CheckpointError
from ...formats.peft_config import PeftConfig
from ...formats.peft_names import PREFIX
from ...models import sites as sites_
from ...models import weights
from ...models.sites import Sites
from .components import components
from .on_linear import LinearFormat

if TYPE_CHECKING:
    from .adalora import AdaLoRA

KNOWN = frozenset(
    {
        *("target_r", "init_r", "tinit", "tfinal", "deltaT", "total_step", "beta1", "beta2", "orth_reg_weight"),
        *("lora_alpha", "lora_dropout", "rank_pattern", "fan_in_fan_out", "init_lora_weights"),
        *("r", "megatron_core", "qalora_group_size"),
    }
)
_STEPS = 1000  # PEFT's phases are numbers of steps of one run; ours are shares, written as those of a run so long
_RANK_DIM = {"lora_A": 0, "lora_B": 1, "coefficient": 0}


class AdaLoRAFormat(LinearFormat["AdaLoRA"]):
    def config(self, method: "AdaLoRA", sites: Sites, hosts: list[str]) -> dict[str, object]:
        first = min(round(_STEPS * method.initial_phase), _STEPS - 1)
        return {
            "init_r": method.initial_rank,
            "target_r": method.target_rank,
            "lora_alpha": method.alpha,
            "lora_dropout": method.dropout,
            "total_step": _STEPS,
            "tinit": first,
            "tfinal": min(round(_STEPS * method.final_phase), _STEPS - 1 - first),
            "deltaT": method.interval,
            "beta1": method.beta1,
            "beta2": method.beta2,
            "orth_reg_weight": method.orthogonality,
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.module(host)) for host in hosts),
            "bias": "none",
            "init_lora_weights": True,
        }

    def write(
        self, adapter: Adapter, method: "AdaLoRA", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Leave what is not kept out of the tensors, and list it in rank_pattern."""
        config, tensors = super().write(adapter, method, sites, dict(tensors))
        pattern: dict[str, list[bool]] = {}
        for host, delta in components(adapter):
            kept = delta.kept[:, 0]
            pattern[f"{host}.lora_E"] = kept.tolist()
            del tensors[self.key(host, "kept")]
            for name, dim in _RANK_DIM.items():
                key = self.key(host, name)
                tensors[key] = tensors[key].index_select(dim, kept.nonzero()[:, 0])
        some_are_gone = not all(all(kept) for kept in pattern.values())
        return config | {"rank_pattern": pattern if some_are_gone else None}, tensors

    def settings(self, config: PeftConfig) -> dict[str, object]:
        if (init := config.get("init_lora_weights", True)) not in (True, False):
            raise CheckpointError(f"adapter_config.json: init_lora_weights is {init!r}, which AdaLoRA does not have")
        if (steps := config["total_step"]) < 1:
            raise CheckpointError(f"adapter_config.json: total_step is {steps}; it must be at least 1")
        return {
            "initial_rank": config["init_r"],
            "target_rank": min(config["target_r"], config["init_r"]),  # there are no more to keep than there are
            "alpha": config["lora_alpha"],
            "dropout": config.get("lora_dropout", 0.0),
            "initial_phase": config.get("tinit", 0) / steps,
            "final_phase": config.get("tfinal", 0) / steps,
            "interval": config.get("deltaT", 1),
            "beta1": config.get("beta1", 0.85),
            "beta2": config.get("beta2", 0.85),
            "orthogonality": config.get("orth_reg_weight", 0.5),
        }

    def read_tensors(self, method: "AdaLoRA", config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the components that rank_pattern says are gone there as zeros, so that training can go on."""
        tensors, pattern = dict(tensors), dict(config.get("rank_pattern") or {})
        for host in [key[len(PREFIX) : -len(".lora_E")] for key in tensors if key.endswith(".lora_E")]:
            kept = torch.tensor(pattern.pop(f"{host}.lora_E", [True] * method.initial_rank), dtype=torch.bool)
            tensors[self.key(host, "kept")] = kept.view(-1, 1)
            for name, dim in _RANK_DIM.items():
                if (key := self.key(host, name)) in tensors:
                    tensors[key] = _spread(key, tensors[key], dim, kept)
        if pattern:
            raise CheckpointError(f"adapter_config.json: rank_pattern names {next(iter(pattern))}, which has no tensor")
        return tensors


def _spread(key: str, tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    if tensor.ndim != 2 or tensor.shape[dim] != kept.sum():
        raise CheckpointError(f"{key} has shape {tuple(tensor.shape)}, but rank_pattern keeps {int(kept.sum())} rows")
    shape = list(tensor.shape)
    shape[dim] = len(kept)
    return tensor.new_zeros(shape).index_copy(dim, kept.nonzero()[:, 0], tensor)
