"""LoRA as Hugging Face PEFT writes it: what starts or ranks of its own a run had becomes a plain LoRA in the file."""

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import CheckpointError
from ...models import sites as sites_
from ...models import weights
from ...models.sites import Sites
from . import lora_init
from .low_rank import low_rank
from .patterns import whole

if TYPE_CHECKING:
    from ...attached.adapter import Adapter
    from .lora import LoRA

FIELDS = frozenset(
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


def config(method: "LoRA", sites: Sites, hosts: list[str]) -> dict[str, Any]:
    """Plain LoRA; with a start that was taken away, of twice the rank and as strong (see `LowRank.factors`)."""
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
        "use_dora": method.decomposed,
        "trainable_token_indices": list(method.tokens) or None,
    }


def as_plain(
    method: "LoRA", adapter: "Adapter", config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A start that was taken away becomes part of the factors; ranks that eva chose are listed by module."""
    tensors, deltas = dict(tensors), low_rank(adapter)
    for host, delta in deltas.items():
        if delta.start_A is not None:
            for name in ("start_A", "start_B"):
                del tensors[method.peft_key(host, name)]
            for name, factor in zip(("lora_A", "lora_B"), delta.matrices(), strict=True):
                tensors[method.peft_key(host, name)] = factor.detach()
    if method.initialization == "eva":
        ranks = {host: len(delta.lora_A) for host, delta in deltas.items()}
        strengths = {h: d.scale * ranks[h] ** (0.5 if method.rank_stabilized else 1) for h, d in deltas.items()}
        config = config | {
            "rank_pattern": {whole(h): rank for h, rank in ranks.items() if rank != method.rank},
            "alpha_pattern": {whole(h): alpha for h, alpha in strengths.items() if alpha != method.alpha},
        }
    return config, tensors


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """LoRA's settings but for its targets. Raises CheckpointError for a base that was changed for good."""
    init = config.get("init_lora_weights", True)
    if init not in (True, False, *_STARTS):
        raise CheckpointError(
            f"adapter_config.json: init_lora_weights is {init!r}, which changed the base model in a way that cannot be "
            "repeated here; convert the adapter to plain LoRA with PEFT first "
            "(path_initial_model_for_weight_conversion)"
        )
    if (bias := config.get("bias") or "none") not in (known := {theirs: ours for ours, theirs in _BIAS.items()}):
        raise CheckpointError(f"adapter_config.json: bias is {bias!r}; known: {', '.join(known)}")
    if not isinstance(tokens := config.get("trainable_token_indices") or (), list | tuple):
        raise CheckpointError(
            f"adapter_config.json: trainable_token_indices is {tokens!r}; only rows of the input embedding can be read"
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


def starts_of_base(method: "LoRA", adapter: "Adapter") -> dict[str, Tensor]:
    """What PEFT took out of the base's weights before training, which its file does not have.

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
