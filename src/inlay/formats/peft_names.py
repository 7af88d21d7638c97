"""Where a file's tensors belong in the model: names of older releases of transformers, and modules saved whole."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..attached.adapter import Adapter
from ..errors import CheckpointError
from ..models import weights
from ..models.heads import input_embeddings, output_embeddings
from ..models.modules import has_config
from ..models.sites import Sites, ends_with
from .peft_config import CONFIG, PeftConfig, fits, matches

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightRenaming

PREFIX = "base_model.model."
ValueT = TypeVar("ValueT")


def renamed(model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Give `config` and `tensors` the names that this release of transformers has for the modules of `model`.

    A checkpoint made with an earlier release may know them by others: language_model.model.layers is
    model.language_model.layers today. transformers' own table for a model's weights says what became of a name.
    """
    if "num_virtual_tokens" in config:  # such a file names no layers, and its keys have another prefix
        return config, tensors
    modules = {name for name, _ in Sites(model, ()).modules()}
    unknown = [key for key in tensors if key.startswith(PREFIX) and not _module(key, modules)]
    new_names: dict[str, str] = {}
    if unknown:
        table = _renamings(model)
        for key in unknown:
            new = PREFIX + _through(table, key.removeprefix(PREFIX))
            if new != key and _module(new, modules) and new not in tensors:
                new_names[key] = new
    if not new_names:
        return config, tensors
    tensors = {new_names.get(key, key): tensor for key, tensor in tensors.items()}
    return _with_new_names(config, new_names, modules, tensors), tensors


def saved_whole(
    model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor], *, own_words: bool
) -> tuple[str, ...]:
    """Name the modules that the file has whole: modules_to_save, and embeddings that are not the base's own.

    PEFT takes an entry for the end of a name, with no dot before it. A module that only this finds counts if the file
    has it; so does one beside the module that has the entry for its whole name. Inlay's own files have whole names.
    """
    entries, sites = config.get("modules_to_save") or (), Sites(model, ())
    embeddings = set[str]() if own_words else _embeddings(sites)  # there a method may have an embedding as a host
    found, modules, ours = [], dict(sites.modules()), "auto_mapping" not in config
    for name, module in modules.items():
        if any(name == entry or (ends_with(name, entry) and entry not in modules) for entry in entries):
            found.append(name)
        elif any(name.endswith(entry) and not (ours and entry in modules) for entry in entries):
            if any(key.startswith((f"{PREFIX}{name}.", f"base_model.{name}.")) for key in tensors):
                found.append(name)
        elif name in embeddings and f"{PREFIX}{name}.weight" in tensors and not _is_own(module, name, tensors):
            found.append(name)
    return tuple(found)


def without_doubles(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors but for the biases of modules saved whole that PEFT, asked for all biases, saves once more,
    and those of the originals, which nothing reads.
    """
    own = {key: re.sub(r"\.(?:modules_to_save|original_module)\.(?=bias$)", ".", key) for key in tensors}
    return {key: tensor for key, tensor in tensors.items() if own[key] == key or own[key] not in tensors}


def of_embeddings(model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor]) -> PeftConfig:
    """Say in plain words what PEFT's `config` says of a model's embeddings in words that depend on the model.

    Raises CheckpointError if it trains single tokens of anything but the input embedding.
    """
    if not any(key.endswith(".bias") for key in tensors) and config.get("bias") in ("all", "lora_only"):
        config = {**config, "bias": "none"}  # there are none to train
    sites = Sites(model, ())
    targets = config.get("target_modules")
    if config.get("ensure_weight_tying") and targets:  # what is tied to an adapted embedding is adapted too
        tied = [n for n in _embeddings(sites) if f"{PREFIX}{n}.lora_A.weight" in tensors and not matches(n, targets)]
        if isinstance(targets, str):
            config = {**config, "target_modules": "|".join([f"(?:{targets})", *map(re.escape, tied)])}
        else:
            config = {**config, "target_modules": [*targets, *tied]}
    if isinstance(tokens := config.get("trainable_token_indices"), dict):
        own = next((n for n, m in sites.modules() if m is input_embeddings(model)), "")
        if len(tokens) != 1 or not ends_with(own, next(iter(tokens))):
            raise CheckpointError(
                f"{CONFIG}: trainable_token_indices is {tokens!r}; only rows of the input embedding, {own or 'none'}, "
                "can be read"
            )
        config = {**config, "trainable_token_indices": next(iter(tokens.values()))}
    return config


def without_copies(adapter: Adapter, tensors: dict[str, Tensor], placed: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors but for those without a place that are the base's own, which PEFT may save as well and which
    add nothing. Raises CheckpointError if such a one differs from the base's.
    """
    known, embeddings = set(placed), _embeddings(Sites(adapter.model, ()))
    kept = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX).removesuffix(".weight")
        adapted = name.removesuffix(".base_layer")
        if key in known or not key.endswith(".weight"):
            kept[key] = tensor
        elif name != adapted and adapted in adapter.deltas:
            if not equal(weights.stored(adapter.model.get_submodule(adapted)), tensor):
                raise CheckpointError(
                    f"{key} differs from this model's {adapted}.weight: the adapter was trained on another base, or on "
                    "one with new tokens, whose rows were drawn at random: load that base with the rows it had"
                )
        elif name not in embeddings:
            kept[key] = tensor
    return kept


def equal(own: Tensor, tensor: Tensor) -> bool:
    """Tell whether a tensor of the base and one of a file are the same numbers, but for their dtype."""
    if own.is_meta or own.shape != tensor.shape:
        return own.shape == tensor.shape
    own = own.detach().cpu()
    return torch.equal(own, tensor.to(own.dtype)) or torch.equal(own.to(tensor.dtype), tensor)


def _is_own(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> bool:
    own, stored = weights.stored(module), tensors[f"{PREFIX}{name}.weight"]
    if own.shape != stored.shape:
        raise CheckpointError(
            f"{name}.weight in the file is {' x '.join(map(str, stored.shape))}, in this model "
            f"{' x '.join(map(str, own.shape))}: the adapter belongs to a vocabulary of another size; call "
            f"resize_token_embeddings({len(stored)}) before loading it"
        )
    return equal(own, stored)


def _embeddings(sites: Sites) -> set[str]:
    """Name the token embeddings and what makes logits."""
    both = [input_embeddings(sites.model), output_embeddings(sites.model)]
    return {name for name, module in sites.modules() if any(module is m for m in both)}


def _module(key: str, modules: set[str]) -> str | None:
    """Find the module that the tensor `key` is in, of those there are: the longest name that leads to it."""
    parts = key.removeprefix(PREFIX).split(".")
    ends = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    name = next((end for end in ends if end in modules), None)
    # What is left of the name is the adapter's own: a module or a parameter, or one inside the other.
    return name if name is not None and len(parts) - name.count(".") - 1 <= 3 else None


def _renamings(model: nn.Module) -> "list[WeightRenaming]":
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # a release of transformers that has no such table
        return []
    if not has_config(model):
        return []
    table = get_model_conversion_mapping(model)
    return [entry for entry in table or () if isinstance(entry, WeightRenaming)]


def _through(table: "list[WeightRenaming]", key: str) -> str:
    for entry in table:
        key = entry.rename_source_key(key)[0]
    return key


def _with_new_names(
    config: PeftConfig, new_names: dict[str, str], modules: set[str], tensors: dict[str, Tensor]
) -> PeftConfig:
    """Name every adapted module in full, and its rank and alpha by that name too."""
    of: dict[str, str] = {}  # the module's name of today -> the one in the file
    for old, new in new_names.items():
        name = _module(new, modules)
        assert name is not None
        of[name] = old.removeprefix(PREFIX).removesuffix(new.removeprefix(PREFIX + name))
    whole = [name for name in config.get("modules_to_save") or () if name]
    hosts = sorted({name for key in tensors if (name := _module(key, modules))} - {""})
    hosts = [name for name in hosts if not any(name.endswith(entry) for entry in whole)]

    def by_host(patterns: dict[str, ValueT]) -> dict[str, ValueT]:
        chosen = {h: next((p for p in patterns if fits(p, of.get(h, h)) or fits(p, h)), None) for h in hosts}
        return {f"^{re.escape(h)}": patterns[p] for h, p in chosen.items() if p is not None}

    return {
        **config,
        "target_modules": hosts,
        "layers_to_transform": None,
        "exclude_modules": None,
        "rank_pattern": by_host(config.get("rank_pattern") or {}),
        "alpha_pattern": by_host(config.get("alpha_pattern") or {}),
    }
