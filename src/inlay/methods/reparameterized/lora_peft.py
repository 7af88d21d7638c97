"""LoRA as Hugging Face PEFT writes it: what starts or ranks of its own a run had becomes a plain LoRA in the file."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from ...attached.adapter import Adapter
from ...attached.replacement import Replacement
from ...errors import CheckpointError
from ...models import sites as sites_
from ...models import weights
from ...models.sites import Sites
from . import experts_peft, lora_init
from .low_rank import low_rank
from .on_linear import LinearFormat
from .patterns import whole
from .token_rows import TokenRows

if TYPE_CHECKING:
    from .lora import LoRA

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
    decomposed: bool = False  # what PEFT calls use_dora

    def key(self, host: str, parameter: str) -> str:
        # PEFT keeps linear and convolution factors in modules, whose tensors are named weight, and an embedding's bare.
        return super().key(host, parameter) + (".weight" if parameter in ("lora_A", "lora_B") else "")

    def reads(self, config: dict[str, Any]) -> bool:
        return super().reads(config) and bool(config.get("use_dora")) == self.decomposed

    def config(self, method: LoRAT, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        """Return a plain LoRA's; with a start that was taken away, of twice the rank and as strong (see
        `LowRank.matrices`)."""
        wider = 2 if method.initialization in lora_init.TAKEN_AWAY else 1
        stronger = math.sqrt(wider) if method.rank_stabilized else wider
        return {
            "r": wider * method.rank,
            "lora_alpha": stronger * method.alpha,
            "lora_dropout": method.dropout,
            "use_rslora": method.rank_stabilized,
            "rank_pattern": {pattern: wider * rank for pattern, rank in method.rank_pattern.items()},
            "alpha_pattern": {pattern: stronger * alpha for pattern, alpha in method.alpha_pattern.items()},
            "target_modules": sites_.shortest_suffixes(sites.model, hosts),
            "fan_in_fan_out": any(weights.is_flipped(sites.module(host)) for host in hosts),
            "bias": _BIAS[method.bias],
            "lora_bias": method.change_bias,
            "init_lora_weights": True,
            "use_dora": self.decomposed,
            "trainable_token_indices": list(method.tokens) or None,
        }

    def write(
        self, adapter: Adapter, method: LoRAT, sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Make a start that was taken away part of the factors, and list ranks that eva chose by module."""
        hosts = [host for host, _, delta in adapter.hosts() if not isinstance(delta, Replacement | TokenRows)]
        config, tensors, deltas = self.config(method, sites, hosts), dict(tensors), low_rank(adapter)
        for host, delta in deltas.items():
            if delta.start_A is not None:
                for name in ("start_A", "start_B"):
                    del tensors[self.key(host, name)]
                for name, factor in zip(("lora_A", "lora_B"), delta.matrices(), strict=True):
                    tensors[self.key(host, name)] = factor.detach()
        if method.initialization == "eva":
            ranks = {host: len(delta.lora_A) for host, delta in deltas.items()}
            strengths = {h: d.scale * ranks[h] ** (0.5 if method.rank_stabilized else 1) for h, d in deltas.items()}
            config = config | {
                "rank_pattern": {whole(h): rank for h, rank in ranks.items() if rank != method.rank},
                "alpha_pattern": {whole(h): alpha for h, alpha in strengths.items() if alpha != method.alpha},
            }
        return experts_peft.in_peft_form(method, adapter, config, tensors)

    def targets(self, config: dict[str, Any]) -> tuple[str, ...]:
        parameters = tuple(config.get("target_parameters") or ())
        return (super().targets(config) if config["target_modules"] or not parameters else ()) + parameters

    def settings(self, config: dict[str, Any]) -> dict[str, Any]:
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
        strengths = config.get("target_parameters") or {}  # as experts_peft has put it
        ranks = {whole(name): rank for name, (rank, _) in strengths.items()}
        alphas = {whole(name): alpha for name, (_, alpha) in strengths.items()}
        return {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "dropout": config.get("lora_dropout", 0.0),
            "rank_stabilized": config.get("use_rslora", False),
            "rank_pattern": ranks | (config.get("rank_pattern") or {}),
            "alpha_pattern": alphas | (config.get("alpha_pattern") or {}),
            "initialization": _STARTS.get(init, "kaiming"),
            "bias": known[bias],
            "change_bias": bool(config.get("lora_bias")),
            "tokens": tuple(tokens),
        }

    def in_own_form(
        self, model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], asked: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
                if method.initialization == "olora" and weights.is_flipped(host):
                    raise CheckpointError(
                        f"adapter_config.json: init_lora_weights is 'olora', which PEFT cannot start at {host_name}, a "
                        f"{type(host).__name__}: its start is not what it takes out of the base"
                    )
                start = lora_init.whole_start(method.initialization, host, len(delta.lora_A), delta.scale)
            starts |= dict(zip((f"{host_name}.start_A", f"{host_name}.start_B"), start, strict=True))
        return starts
