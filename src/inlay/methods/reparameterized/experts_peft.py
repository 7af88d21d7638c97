"""Low-rank changes of experts as Hugging Face PEFT keeps them: its target_parameters.

PEFT wraps a module once for each of its parameters that is targeted, the first innermost, and names a parameter's
factors by how deep its wrapper is: `experts.lora_A`, `experts.base_layer.lora_A`. The experts' factors are flattened,
A to (E R, I) and B to (O, R E). What counts as input is the last dimension, unless the module says that its matrices
are transposed; up to release 0.19.0 it was always the one before.

Adapters from before transformers 5 have a module for each expert and projection, `experts.3.w1`. The projections that
are one parameter today (w1 and w3) become one change of their ranks' sum: their A one below the other, their B in
blocks. What an expert or projection lacks is zero.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.attachment import Attachment
from ...errors import CheckpointError
from ...formats.peft_config import PeftConfig, matches
from ...formats.peft_format import format_of
from ...models import experts, weights
from ...models.experts import Stack
from ...models.modules import has_config
from ...models.sites import ALL_LINEAR, Sites, ends_with, shortest_suffixes
from .low_rank import CONVOLUTION, LowRankExperts
from .patterns import Strengths, whole

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    from .lora import LoRA

PREFIX = "base_model.model."
READS = "0.19.1"  # the oldest release of PEFT that reads what is written here
_SWAPPED = (0, 19, 1)
# Modules of these names PEFT takes for the experts that transformers 4 had, wherever they are in the model.
_TAKEN_FOR_EXPERTS = frozenset({"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True)
class _Parameter:
    """One of the parameters that a file adapts, and how PEFT keeps its factors."""

    host: str
    name: str
    stack: Stack
    depth: int
    """Wrappers around its own."""
    last_in: bool
    """Whether the module's own layout has the inputs last, as PEFT sees it."""

    @property
    def full(self) -> str:
        return f"{self.host}.{self.name}"

    def key(self, factor: str) -> str:
        return f"{PREFIX}{self.host}{'.base_layer' * self.depth}.{factor}.weight"

    def own_key(self, factor: str) -> str:
        return f"{PREFIX}{self.full}.{factor}"


def _parameters(host: str, module: nn.Module, chosen: list[str]) -> list[_Parameter]:
    """List the parameters in PEFT's order of wrapping: the last one of the module is outermost."""
    stacks = experts.matrices(module)
    last_in = not getattr(module, "is_transposed", False)
    return [
        _Parameter(host, name, stacks[name], len(chosen) - 1 - n, last_in or stacks[name].experts is None)
        for n, name in enumerate(chosen)
    ]


def in_peft_form(
    method: "LoRA",
    adapter: Attachment,
    config: dict[str, object],
    own: Strengths,
    tensors: dict[str, Tensor],
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return `config` and `tensors` as PEFT writes them, if the adapter is on experts; else as they are."""
    deltas = {host: d for host, d in adapter.deltas.items() if isinstance(d, LowRankExperts)}
    if not deltas:
        return config, tensors
    tensors, strengths = dict(tensors), {}
    for host, delta in deltas.items():
        for p in _parameters(host, adapter.model.get_submodule(host), list(delta.folds)):
            a, b = (tensors.pop(p.own_key(name)) for name in ("lora_A", "lora_B"))
            tensors[p.key("lora_A")], tensors[p.key("lora_B")] = _flattened(p, a, b)
            strengths[p.full] = method.strength(host, p.name)
    factors = ("lora_A", "lora_embedding_A")
    hosts = [
        h for h in adapter.deltas if h not in deltas and any(format_of(method).key(h, f) in tensors for f in factors)
    ]
    for host in hosts:
        if _is_taken_for_experts(adapter.model.get_submodule(host), host):
            strengths[f"{host}.weight"] = method.strength(host)
    layers = [host for host in hosts if f"{host}.weight" not in strengths]
    return config | _parameter_settings(method, adapter.model, own, layers, strengths), tensors


def _parameter_settings(
    method: "LoRA", model: nn.Module, own: Strengths, layers: list[str], strengths: dict[str, tuple[int, float]]
) -> dict[str, object]:
    ranks, alphas = {}, {}
    for full, (rank, scale) in strengths.items():
        alpha = scale * (rank**0.5 if method.rank_stabilized else rank)
        own_rank, own_alpha = own.of(full)
        if own_rank != rank:
            ranks[whole(full)] = rank
        if abs(own_alpha - alpha) > 1e-9 * abs(alpha):
            alphas[whole(full)] = alpha
    return {
        "target_modules": shortest_suffixes(model, layers) if layers else [],
        "target_parameters": list(strengths),
        "rank_pattern": ranks | own.rank_pattern,
        "alpha_pattern": alphas | own.alpha_pattern,
        "peft_version": READS,
    }


def _is_taken_for_experts(module: nn.Module, name: str) -> bool:
    return name.rpartition(".")[2] in _TAKEN_FOR_EXPERTS and isinstance(module, nn.Linear)


def _flattened(p: _Parameter, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if p.stack.experts is None:
        return a, b
    if p.last_in == p.stack.flipped:  # what is input here is output there
        a, b = b.mT, a.mT
    return a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)


def in_own_form(
    model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor], asked: PeftConfig
) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Put experts' factors in a LoRA that PEFT wrote under their parameters' names, by expert.

    `asked` is the config as the file has it, if that has other names for modules. `target_modules` then selects no
    experts, and `target_parameters` has rank and alpha of each parameter, or layer, by its whole name. Raises
    CheckpointError if the file adapts a parameter that cannot be adapted here, or if factors do not fit theirs.
    """
    modules = {name: module for name, module in Sites(model, ()).modules() if name}
    owners = {name: own for name, module in modules.items() if (own := experts.matrices(module))}
    if not owners and not config.get("target_parameters"):
        return config, tensors
    tensors = dict(tensors)
    chosen = _stacked(model, asked, tensors)
    for host, names in _targeted(modules, owners, config, tensors).items():
        for p in _parameters(host, modules[host], names) if host in owners else ():
            chosen[p.full] = _strength(config, p.full)
            if p.key("lora_A") in tensors and p.key("lora_B") in tensors:
                a, b = (tensors.pop(p.key(factor)) for factor in ("lora_A", "lora_B"))
                tensors[p.own_key("lora_A")], tensors[p.own_key("lora_B")] = _by_expert(p, a, b, config)
        if host not in owners:
            chosen[host] = _strength(config, f"{host}.weight")
    layers = _layers(modules, owners, config, tensors, bool(chosen))
    config = {**config, "target_modules": layers if layers or chosen else config.get("target_modules")}
    if any(name not in modules for name in chosen):  # of parameters, whose inputs cannot be dropped; it is for training
        config["lora_dropout"] = 0.0
    return {**config, "target_parameters": chosen or None}, tensors


def _targeted(
    modules: dict[str, nn.Module],
    owners: dict[str, dict[str, Stack]],
    config: PeftConfig,
    tensors: dict[str, Tensor],
) -> dict[str, list[str]]:
    """Return the parameters that target_parameters selects, by module, in the order of the module; and the router's of
    a file that knows it as a layer.
    """
    entries = config.get("target_parameters") or ()
    found: dict[str, list[str]] = {}
    for host, module in modules.items():
        for name in module._parameters:
            full = f"{host}.{name}"
            if not any(ends_with(full, entry) for entry in entries):
                continue
            linear = weights.is_linear(module) and not weights.is_flipped(module) and name == "weight"
            if not linear and name not in owners.get(host, {}):
                raise CheckpointError(
                    f"adapter_config.json: target_parameters selects {full}, which is no plain stack of expert "
                    "matrices and no weight of a linear layer; this is not read here"
                )
            found.setdefault(host, []).append(name)
    for host, own in owners.items():
        as_layer = f"{PREFIX}{host}.lora_A.weight" in tensors and matches(host, config.get("target_modules"))
        if host not in found and as_layer and "weight" in own and own["weight"].experts is None:
            found[host] = ["weight"]
    return found


def _layers(
    modules: dict[str, nn.Module],
    owners: dict[str, dict[str, Stack]],
    config: PeftConfig,
    tensors: dict[str, Tensor],
    whole_names: bool,
) -> list[str] | str:
    """Return the target_modules; by their whole names if it is asked, or if as they are they would select experts,
    too.
    """
    targets = config.get("target_modules") or []
    parameters = [f"{host}.{name}" for host, own in owners.items() for name in own]
    if targets == ALL_LINEAR:
        adapted = [name for name in modules if f"{PREFIX}{name}.lora_A.weight" in tensors]
        return [name for name in adapted if name not in owners]
    if not whole_names and isinstance(targets, str) and not any(matches(n, targets) for n in (*owners, *parameters)):
        return targets
    heads = [name for name in modules if matches(name, list(config.get("modules_to_save") or ()))]
    return [
        name
        for name, module in modules.items()
        if name not in owners
        and matches(name, targets)
        and not any(name == head or name.startswith(head + ".") for head in heads)
        and (weights.is_linear(module) or isinstance(module, nn.Embedding) or type(module) in CONVOLUTION)
    ]


def _by_expert(p: _Parameter, a: Tensor, b: Tensor, config: PeftConfig) -> tuple[Tensor, Tensor]:
    """Bring flattened factors into A (E, R, I) and B (E, O, R). Raises CheckpointError if they do not fit."""
    stack = p.stack
    if stack.experts is None:
        return a, b
    rows, columns = (
        (stack.in_features, stack.out_features) if stack.flipped else (stack.out_features, stack.in_features)
    )
    fitting = [last_in for last_in in (True, False) if _fit(stack.experts, a, b, last_in, rows, columns)]
    if not fitting:
        raise CheckpointError(
            f"{p.key('lora_A')} is {' x '.join(map(str, a.shape))} and lora_B {' x '.join(map(str, b.shape))}, which "
            f"do not fit {p.full} of this model, {stack.experts} experts of {rows} x {columns}"
        )
    last_in = fitting[0]
    if len(fitting) > 1:  # a square matrix does not tell
        last_in = p.last_in and _release(config.get("peft_version")) >= _SWAPPED
    a, b = a.view(stack.experts, -1, a.shape[1]), b.view(len(b), -1, stack.experts).permute(2, 0, 1)
    if last_in == stack.flipped:
        a, b = b.mT, a.mT
    return a.contiguous(), b.contiguous()


def _fit(count: int, a: Tensor, b: Tensor, last_in: bool, rows: int, columns: int) -> bool:
    inputs, outputs = (columns, rows) if last_in else (rows, columns)
    same_rank = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] and a.shape[0] % count == 0
    return same_rank and a.shape[1] == inputs and b.shape[0] == outputs


def _release(version: str | None) -> tuple[int, ...]:
    """Read the numbers of a version such as 0.19.1.dev0@unknown; a file without one is older than all that write it."""
    return tuple(int(part) for part in re.findall(r"\d+", version or "0")[:3])


def _strength(config: PeftConfig, name: str) -> tuple[int, float]:
    """Rank and alpha that a file's settings give the module or parameter `name`."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    return Strengths(config["r"], config["lora_alpha"], ranks, alphas).of(name)


def _stacked(model: nn.Module, config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, tuple[int, float]]:
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
    config: PeftConfig,
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
        rank, alpha = _strength(config, keys["lora_A"].removeprefix(PREFIX).removesuffix(".lora_A.weight"))
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

    renamings: "list[WeightRenaming]"
    joins: "list[WeightConverter]"

    def __init__(self, model: nn.Module):
        self.model = model
        self.renamings, self.joins = [], []
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming
        except ImportError:  # a release in which experts are modules
            return
        for entry in get_model_conversion_mapping(model) if has_config(model) else ():
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
