"""Adapters from before transformers 5, which have a module for each expert and projection: `experts.3.w1`.

The projections that are one parameter today (w1 and w3) become one change of their ranks' sum: their A one below the
other, their B in blocks. What an expert or projection lacks is zero.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...models import experts
from .patterns import first_fit

PREFIX = "base_model.model."


def strength(config: dict[str, Any], name: str) -> tuple[int, float]:
    """Rank and alpha that a file's settings give the module or parameter `name`."""
    rank = first_fit(config.get("rank_pattern") or {}, name, config["r"])
    return rank, first_fit(config.get("alpha_pattern") or {}, name, config["lora_alpha"])


def joined(model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, tuple[int, float]]:
    """Put the factors of single experts, `experts.3.w1`, together under the parameter that holds them today; rank and
    alpha of each."""
    found: dict[str, dict[tuple[int, int], dict[str, str]]] = {}  # parameter -> (part, expert) -> factor -> key
    parts: dict[str, int] = {}
    table = None
    for key in list(tensors):
        match = re.fullmatch(re.escape(PREFIX) + r"(.+\.(\d+)\.[^.]+)\.(lora_[AB])\.weight", key)
        if match is None or _has_module(model, match[1]):
            continue
        table = _Table(model) if table is None else table
        if (place := table.place(match[1])) is None:
            continue
        parameter, part, parts[place[0]] = place
        found.setdefault(parameter, {}).setdefault((part, int(match[2])), {})[match[3]] = key
    strengths = {}
    for parameter, pieces in found.items():
        strengths[parameter] = _joined(model, parameter, parts[parameter], pieces, config, tensors)
    return strengths


def _joined(
    model: nn.Module,
    parameter: str,
    parts: int,
    pieces: dict[tuple[int, int], dict[str, str]],
    config: dict[str, Any],
    tensors: dict[str, Tensor],
) -> tuple[int, float]:
    host, _, name = parameter.rpartition(".")
    stack = experts.matrices(model.get_submodule(host))[name]
    rows = stack.out_features // parts
    rank_of: dict[int, int] = {}
    factors: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for (part, expert), keys in pieces.items():
        if keys.keys() != {"lora_A", "lora_B"}:
            raise CheckpointError(f"{next(iter(keys.values()))} has no other factor beside it")
        a_RI, b_OR = (tensors.pop(keys[factor]).float() for factor in ("lora_A", "lora_B"))
        fits = a_RI.shape[1:] == (stack.in_features,) and b_OR.shape == (rows, len(a_RI))
        if not fits or stack.flipped or expert >= (stack.experts or 0):
            raise CheckpointError(
                f"{keys['lora_A']} and its lora_B are {tuple(a_RI.shape)} and {tuple(b_OR.shape)}, which do not fit "
                f"{parameter} of this model, {stack.experts} experts of {stack.out_features} x {stack.in_features}"
            )
        rank, alpha = strength(config, keys["lora_A"].removeprefix(PREFIX).removesuffix(".lora_A.weight"))
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        factors[part, expert] = a_RI, scale * b_OR
        rank_of[part] = max(rank_of.get(part, 0), len(a_RI))
    rank = sum(rank_of.values())
    alpha = rank**0.5 if config.get("use_rslora") else rank  # each expert's own scale is in its B
    a = torch.zeros(stack.experts or 1, rank, stack.in_features)
    b = torch.zeros(stack.experts or 1, stack.out_features, rank)
    for (part, expert), (a_RI, b_OR) in factors.items():
        first = sum(r for other, r in rank_of.items() if other < part)
        a[expert, first : first + len(a_RI)] = a_RI
        b[expert, part * rows : (part + 1) * rows, first : first + len(a_RI)] = b_OR
    tensors[f"{PREFIX}{parameter}.lora_A"], tensors[f"{PREFIX}{parameter}.lora_B"] = a, b
    return rank, alpha


def _has_module(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


class _Table:
    """What transformers knows of the names that a model's weights had before its experts shared parameters."""

    def __init__(self, model: Any):
        self.model = model
        self.renamings: list[Any] = []
        self.joins: list[Any] = []
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming
        except ImportError:  # a release in which experts are modules
            return
        for entry in get_model_conversion_mapping(model) if hasattr(model, "config") else ():
            if isinstance(entry, WeightRenaming):
                self.renamings.append(entry)
            elif isinstance(entry, WeightConverter):
                done = [(type(operation), getattr(operation, "dim", None)) for operation in entry.operations]
                if done in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
                    self.joins.append(entry)

    def place(self, module: str) -> tuple[str, int, int] | None:
        """Tell of a single expert's layer the parameter that its weight is in today, which part of that it is, and of
        how many."""
        key = f"{module}.weight"
        for entry in self.renamings:
            key = entry.rename_source_key(key)[0]
        for entry in self.joins:
            new, pattern = entry.rename_source_key(key)
            host, _, name = new.rpartition(".")
            if pattern is not None and _has_module(self.model, host):
                if name in experts.matrices(self.model.get_submodule(host)):
                    return new, entry.source_patterns.index(pattern), len(entry.source_patterns)
        return None
