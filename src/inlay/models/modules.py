"""What kinds of modules a base model is made of."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Guest(nn.Module):
    """A module that was put into a base model and is no part of it: walks over the base pass it by."""

    def has_statistics(self) -> bool:
        """Tell whether its host now runs on buffers of the guest's, in place of its own."""
        return False


def base_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module of the base by its name, each once, without guests and what is in them."""
    yield from _base_modules(module, "", set())


def _base_modules(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen or isinstance(module, Guest):
        return
    seen.add(id(module))
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _base_modules(child, f"{prefix}.{name}" if prefix else name, seen)


def parameter_count(module: nn.Module) -> int:
    """Count the numbers in the module's parameters, trained or not."""
    return sum(p.numel() for p in module.parameters())


def has_config(model: nn.Module) -> "TypeGuard[PreTrainedModel]":
    """Tell whether the model is one of transformers, or made like those: it has a configuration."""
    return hasattr(model, "config")


def is_norm(module: nn.Module) -> bool:
    """Tell whether the module is a normalization with a weight, and perhaps a bias, for each feature."""
    own = list(module.parameters())
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | _NormBase):
        return bool(own)
    return type(module).__name__.endswith("Norm") and bool(own) and all(p.ndim == 1 for p in own)


def normalizes(module: nn.Module) -> bool:
    """Tell whether the module is a normalization of any kind."""
    return is_norm(module) or isinstance(module, _NormBase | nn.GroupNorm)


def is_attention(module: nn.Module) -> bool:
    """Tell whether the module attends: its class's name says so, or it tells transformers whether it is causal."""
    return "attention" in type(module).__name__.lower() or isinstance(getattr(module, "is_causal", None), bool)


def within(name: str, roots: object) -> bool:
    """Tell whether `name` is one of the modules `roots` or lies in one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)  # pyright: ignore[reportGeneralTypeIssues]


def joined(*parts: str) -> str:
    """Return a dotted name of its parts, of which some may be empty."""
    return ".".join(part for part in parts if part)
