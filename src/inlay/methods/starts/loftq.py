"""LoftQ: LoRA starts as the best correction of what quantization has done to a weight.  https://arxiv.org/abs/2310.08659

With W the weight as it was and Q the one that its 4 bits stand for, s B A is the best approximation of W - Q of rank R.
This is the paper's first step. Its further ones quantize W - s B A anew, so that every adapter has a base of its own;
here Q stays as it is, for which no start is better, the base is shared, and what is saved is plain LoRA for that base.

The base in memory no longer has W: it is read from the files that the base came from, one weight at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import SettingsError
from ...formats.read import tensors
from ...models import weights
from ...models.weights import Host
from .pissa import best_approximation, check_positive
from .start import Pair, Start

_NEAR = 0.5  # |W - Q| / |W|: 4 bits give about 0.1, unrelated weights 1.4


class LoftQ(Start):
    """Kaiming's start until the weights as they were are read, and then one that makes up for quantization."""

    name = "loftq"
    moves_base = True

    def check(self, ranks: Iterable[int], alphas: Iterable[float]) -> None:
        check_positive(self.name, alphas)

    def check_hosts(self, hosts: Mapping[str, Host]) -> None:
        """Raise SettingsError unless one of the hosts at least is quantized."""
        if not any(weights.is_linear(host) and weights.is_packed(host) for host in hosts.values()):
            name, host = next(iter(hosts.items()))
            raise SettingsError(
                f"method.initialization is loftq, which makes up for quantization, but {name} is a "
                f"{type(host).__name__} in full precision, and so are the others; quantize the base or choose another "
                "initialization"
            )

    @torch.no_grad()
    def from_data(
        self, model: nn.Module, pairs: Mapping[str, Pair], batches: Iterator[dict[str, Tensor]], rank_ratio: float
    ) -> None:
        """Begin at quantized hosts with their corrections; a plain host has nothing to correct.

        Raises SettingsError, having changed nothing, if an original weight is not found or is not that of the host.
        """
        originals = _Originals(model)
        found = {}
        for name, pair in pairs.items():
            host = model.get_submodule(name)
            if weights.is_packed(host):
                quantized_OI = weights.read(host)["weight"]
                original_OI = originals.near(name, quantized_OI)
                found[name] = correction(original_OI, quantized_OI, len(pair.lora_A), pair.scale)
        for name, (a_RI, b_OR) in found.items():
            pairs[name].lora_A.copy_(a_RI)
            pairs[name].lora_B.copy_(b_OR)


def correction(original_OI: Tensor, quantized_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Make A (R, I) and B (O, R) with which `scale` B A is the best approximation of the difference; equally long."""
    return best_approximation(original_OI.float() - quantized_OI.float(), rank, scale)


class _Originals:
    """The weights in the files that a model was loaded from; each is read when it is asked for."""

    def __init__(self, model: nn.Module):
        self.prefix = getattr(model, "base_model_prefix", "") + "."
        self.folder = _folder(getattr(model, "config", None))
        self.files: dict[str, Tensor] = {}  # mapped, by name
        for path in sorted(self.folder.glob("model*.safetensors")):
            self.files |= tensors(path, "the weights of a model")

    def near(self, host: str, quantized_OI: Tensor) -> Tensor:
        """Return the original weight of a host as (O, I). GPT-2's are stored as (I, O), which a square one does not
        show.
        """
        stored = self._stored(f"{host}.weight").to(quantized_OI.device)
        candidates = [w for w in (stored, stored.T) if w.shape == quantized_OI.shape]
        distances = [float((w.float() - quantized_OI).norm() / w.float().norm()) for w in candidates]
        if not candidates or min(distances) > _NEAR:
            raise SettingsError(
                f"method.initialization is loftq, but {host}.weight in {self.folder} is not what {host} was quantized "
                f"from: {_difference(stored, quantized_OI, distances)}; load the base from the folder of its original "
                "weights and quantize it then"
            )
        return candidates[distances.index(min(distances))]

    def _stored(self, name: str) -> Tensor:
        for known_as in (name, name.removeprefix(self.prefix), self.prefix + name):
            if known_as in self.files:
                return self.files[known_as]
        found = f"hold {len(self.files)} others" if self.files else "are none named model*.safetensors"
        raise SettingsError(
            f"method.initialization is loftq, which reads {name} as it was before quantization from the base's files, "
            f"but in {self.folder} there {found}; load the base from a folder with its original weights as safetensors"
        )


def _folder(config: object) -> Path:
    """Return the folder with the files of the base, if need be that of the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name = getattr(config, "_name_or_path", "")
    if name and Path(name).is_dir():
        return Path(name)
    revision = getattr(config, "_commit_hash", None)
    cached = try_to_load_from_cache(name, "config.json", revision=revision) if name else None
    if isinstance(cached, str):
        return Path(cached).parent
    found = f"{name!r} is no folder and not in the hub's cache" if name else "the model does not tell its folder"
    raise SettingsError(
        f"method.initialization is loftq, which reads the base's original weights from its files, but {found}; load "
        "the base with from_pretrained and quantize it then"
    )


def _difference(stored: Tensor, quantized_OI: Tensor, distances: list[float]) -> str:
    if not stored.is_floating_point():
        return f"it is quantized there too ({stored.dtype})"
    if not distances:
        return f"it has shape {tuple(stored.shape)} there, {tuple(quantized_OI.shape)} here"
    return f"they differ by {min(distances):.0%}"
