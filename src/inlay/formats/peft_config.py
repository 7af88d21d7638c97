"""What an adapter_config.json says of the model at hand: which modules, which patterns, and what cannot be read."""

import math
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

from .. import expressions
from ..core.method import Method
from ..errors import CheckpointError
from ..models.sites import ROLES, ends_with
from .read import read_json

CONFIG = "adapter_config.json"
COMMON_KEYS = frozenset(  # what every method's file may have
    {
        *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
        *("peft_version", "auto_mapping", "modules_to_save", "target_modules", "part"),
    }
)

# Values of PEFT's that change nothing, though they are not among those that say nothing at all (null, false, 0, empty).
_NEUTRAL = {"megatron_core": "megatron.core", "use_cayley_neumann": True}

_UNKNOWN = "what the adapter computes and {is_not} known here; let PEFT merge it and use the merged model"
_BECAUSE = {  # why a setting of PEFT's cannot be read
    "layer_replication": "it runs some of the base's layers several times, each with tensors of its own, and no base "
    "here has such layers: save the model that PEFT builds of it, and its adapter with it",
    "alora_invocation_tokens": "the adapter starts in the middle of a text, after these tokens; here it would run on "
    "the whole text",
    "arrow_config": "it chooses among several adapters by their inputs",
    "use_qalora": "its inputs are pooled in groups before the first matrix",
    "use_bdlora": "its matrices are made of blocks",
}

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class PeftConfig(TypedDict, extra_items=object):
        """What adapter_config.json holds, with the kinds of those settings that something here works with.

        A key other than `peft_type` may be absent, so they are read by `get`, but where its absence is an error.
        """

        peft_type: str
        peft_version: str | None
        task_type: str | None
        base_model_name_or_path: str | None
        part: str | None
        modules_to_save: list[str] | None
        target_modules: str | list[str] | None
        exclude_modules: str | list[str] | None
        layers_to_transform: int | list[int] | None
        layers_pattern: str | list[str] | None
        target_parameters: list[str] | dict[str, tuple[int, float]] | None
        feedforward_modules: str | list[str] | None
        r: int
        lora_alpha: float
        rank_pattern: dict[str, int] | None
        alpha_pattern: dict[str, float] | None
        bias: str | None
        trainable_token_indices: list[int] | dict[str, list[int]] | None
        init_r: int
        target_r: int
        total_step: int
        tinit: int
        tfinal: int
        num_virtual_tokens: int
        num_transformer_submodules: int | None
        first_position: Literal["text", "prompt"] | None
        encoder_reparameterization_type: str
        encoder_hidden_size: int
        everywhere: bool
        init_lora_weights: bool | str
else:
    PeftConfig = dict[str, object]

ValueT = TypeVar("ValueT")


def read_config(folder: Path) -> PeftConfig:
    """Read adapter_config.json. Raises CheckpointError if it is none, or a setting in it is of another kind than it can
    be."""
    config = read_json(folder / CONFIG, "the configuration of an adapter")
    if not _has_type(config):
        raise CheckpointError(f"{folder / CONFIG}: no peft_type; this is not an adapter's configuration")
    _check_forms(config)
    return config


def _has_type(config: object) -> TypeGuard[PeftConfig]:
    return isinstance(config, dict) and isinstance(config.get("peft_type"), str)


def _check_forms(config: PeftConfig) -> None:
    """Raise CheckpointError if a setting that is read before its method is known is of another kind than it can be."""
    part = config.get("part")
    patterns: list[tuple[str, object]] = []
    if not isinstance(part, str | None):
        raise CheckpointError(f"{CONFIG}: part is {part!r}; it must be the name of a module, or null")
    for key in ("lora_alpha", "alpha"):
        if key in config and not isinstance(config[key], int | float):
            raise CheckpointError(f"{CONFIG}: {key} is {config[key]!r}; it must be a number")
    for key in ("target_modules", "exclude_modules"):
        patterns += [(key, config[key])] if isinstance(config.get(key), str) else []
    for key in ("rank_pattern", "alpha_pattern"):
        patterns += [(key, pattern) for pattern in own] if isinstance(own := config.get(key), dict) else []
    with expressions.limited():
        for key, pattern in patterns:
            expressions.check(pattern, f"{CONFIG}: {key} has", CheckpointError)


def check_kinds(method: Method) -> None:
    """Raise CheckpointError if a setting has a value of another kind than the method declares."""
    for name, kind in get_type_hints(type(method)).items():
        if name in method.__dict__ and not _is_of(kind, value := getattr(method, name)):
            raise CheckpointError(f"{CONFIG}: a setting has a value that it cannot have: {name} is {str(value)[:200]}")


def _is_of(kind: object, value: object) -> bool:
    if kind is bool:
        return value is None or isinstance(value, bool)  # null says the same as false
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    if get_origin(kind) is Literal:
        return any(value is known or (isinstance(value, str) and value == known) for known in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(one, value) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(get_args(kind)[0], one) for one in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_of(get_args(kind)[1], one) for one in value.values())
    return isinstance(value, kind) if isinstance(kind, type) else True


def check_settings(config: PeftConfig, known: Iterable[str]) -> None:
    """Raise CheckpointError, which names them all, if keys that are neither common nor `known` have values that may
    change the adapter."""
    own = {*COMMON_KEYS, *known}
    said = {k: f"{k} is {value!r}" for k, value in config.items() if k not in own and not says_nothing(k, value)}
    lines = [f"{CONFIG}: {said[key]}; {because}" for key, because in _BECAUSE.items() if key in said]
    if others := [text for key, text in said.items() if key not in _BECAUSE]:
        why = "this changes" if len(others) == 1 else "these change"
        is_not = "is not" if len(others) == 1 else "are not"
        lines.append(f"{CONFIG}: {', '.join(others)}; {why} {_UNKNOWN.format(is_not=is_not)}")
    if lines:
        raise CheckpointError("\n".join(lines))


def says_nothing(key: str, value: object) -> bool:
    """Tell whether a setting with this value leaves the adapter as it would be without it."""
    return value in (None, False, "none", "", [], {}, _NEUTRAL.get(key))


def for_modules(config: PeftConfig, names: list[str]) -> PeftConfig:
    """Choose target_modules that select among `names` what they select in PEFT, and leave out the patterns of ranks and
    alphas that fit none of them, which PEFT passes over."""
    targets = config.get("target_modules")
    if isinstance(targets, list):  # an entry may match nothing, or a head only: whether all is there, the tensors tell
        config = {**config, "target_modules": [t for t in targets if any(ends_with(n, t) for n in names)] or targets}
    layers, excluded = config.get("layers_to_transform"), config.get("exclude_modules")
    chosen = [n for n in names if matches(n, targets) and not matches(n, excluded)]
    if layers not in (None, []):
        numbers = {layers} if isinstance(layers, int) else set(layers)
        lists = config.get("layers_pattern") or r"[^.]*"
        lists = lists if isinstance(lists, str) else "|".join(lists)
        chosen = [n for n in chosen if expressions.layer_number(lists, n) in numbers]
    if layers not in (None, []) or excluded:
        config = {**config, "target_modules": chosen}
    fitted = names if isinstance(targets, str) and targets in ROLES else chosen
    if config["peft_type"] != "ADALORA":
        if isinstance(ranks := config.get("rank_pattern"), dict):
            config = {**config, "rank_pattern": _that_fit(ranks, fitted)}
        if isinstance(alphas := config.get("alpha_pattern"), dict):
            config = {**config, "alpha_pattern": _that_fit(alphas, fitted)}
    return config


def _that_fit(patterns: dict[str, ValueT], names: list[str]) -> dict[str, ValueT]:
    return {p: value for p, value in patterns.items() if any(fits(p, name) for name in names)}


def matches(name: str, targets: str | list[str] | None) -> bool:
    """Tell whether PEFT takes the module `name` for one of `targets`: a pattern of the whole name, or ends of it."""
    if isinstance(targets, str):
        return expressions.fits(targets, name)
    return any(ends_with(name, target) for target in targets or ())


def fits(pattern: str, name: str) -> bool:
    """Tell whether PEFT takes the entry `pattern` of rank_pattern or alpha_pattern for the module `name`."""
    return expressions.fits_end(pattern, name)


def targets_of(config: PeftConfig) -> tuple[str, ...]:
    """Return target_modules as the methods have them. Raises CheckpointError if the file leaves them open."""
    targets = config["target_modules"]
    if targets is None:
        raise CheckpointError(
            f"{CONFIG}: target_modules is null, which leaves the choice of layers to a table of PEFT's; write there "
            "the names of the adapted modules, which are part of the tensors' names"
        )
    return (targets,) if isinstance(targets, str) else tuple(targets)
