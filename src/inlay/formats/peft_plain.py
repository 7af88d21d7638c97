"""An adapter as every reader of LoRA files takes it: one rank, one alpha, no pattern, no other scale.

Some clients read one alpha for the whole file and each tensor's own rank (llama.cpp), others the rank in the
configuration (vLLM); neither asks for rsLoRA or patterns. Here every module has the largest rank, filled up with zeros,
the strength is part of B, and alpha is the rank: alpha / rank is 1 whichever rank is meant.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..attached.adapter import Adapter
from ..core.delta import WeightDelta
from ..errors import AdapterStateError
from ..models import weights
from ..models.sites import Sites, shortest_suffixes
from .peft_names import PREFIX

PLAIN = "lora"  # the method that reads what is written here


def check(adapter: Adapter) -> None:
    """Raise AdapterStateError if the adapter is more than a low-rank change of layers; on a model without values too.

    What it names is what a plain file could not have.
    """
    _factors(adapter)


def check_cut(adapter: Adapter) -> None:
    """Raise AdapterStateError if no cut of the adapter (see inlay.rank) could be a plain file."""
    _check_heads(adapter)
    for name, _, delta in adapter.hosts():
        if isinstance(delta, WeightDelta) and any(left.ndim == 3 for left, _ in delta.factors().values()):
            raise AdapterStateError(
                f"a plain file is a low-rank change of layers, and {name} keeps the weights of its experts in one "
                "parameter, which is none: save it without plain, or merge the adapter"
            )


def plain_form(adapter: Adapter) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return settings and tensors of the plain LoRA that the adapter is. Raises AdapterStateError as `check` does."""
    factors = _factors(adapter)
    rank = max(len(right_RI) for _, right_RI in factors.values())
    tensors: dict[str, Tensor] = {}
    for name, (left_OR, right_RI) in factors.items():
        more = rank - len(right_RI)
        a_RI = F.pad(right_RI.detach().float(), (0, 0, 0, more))
        b_OR = F.pad(left_OR.detach().float(), (0, more))
        host = adapter.model.get_submodule(name)
        if isinstance(host, nn.Embedding):
            parts = {"lora_embedding_A": b_OR.T, "lora_embedding_B": a_RI.T}
        elif len(kernel := weights.stored(host).shape[2:]):  # a convolution's
            a_RIk = a_RI.view(rank, weights.stored(host).shape[1], *kernel)
            parts = {"lora_A.weight": a_RIk, "lora_B.weight": b_OR.view(*b_OR.shape, *[1] * len(kernel))}
        else:
            parts = {"lora_A.weight": a_RI, "lora_B.weight": b_OR}
        tensors |= {f"{PREFIX}{name}.{part}": tensor for part, tensor in parts.items()}
    sites = Sites(adapter.model, (), adapter.part)
    return _settings(sites, list(factors), rank), tensors


def _settings(sites: Sites, hosts: list[str], rank: int) -> dict[str, object]:
    """Write a LoRA's settings, of scale 1 and without anything that a simple reader may not know."""
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": float(rank),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": shortest_suffixes(sites.model, hosts),
        "fan_in_fan_out": any(weights.is_flipped(sites.module(host)) for host in hosts),
        "bias": "none",
        "lora_bias": False,
        "init_lora_weights": True,
        "use_dora": False,
        "trainable_token_indices": None,
    }


def _factors(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Find the left (O, R) and right (R, I) factor of each host's change. Raises AdapterStateError for any other
    change."""
    _check_heads(adapter)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, _, delta in adapter.hosts():
        factors = delta.factors() if isinstance(delta, WeightDelta) and delta.folds == ("weight",) else {}
        if "weight" not in factors or factors["weight"][0].ndim == 3:
            raise AdapterStateError(
                f"a plain file is a low-rank change of layers and nothing else, which {adapter.method.name} is not at "
                f"{name} ({type(delta).__name__}): save it without plain, or merge the adapter"
            )
        found[name] = factors["weight"]
    return found


def _check_heads(adapter: Adapter) -> None:
    if adapter.heads:
        raise AdapterStateError(
            f"a plain file is a low-rank change of layers and nothing else, but {', '.join(adapter.heads)} is trained "
            "whole: save it without plain, or merge the adapter"
        )
