"""Whether a base's files hold the model that their configuration describes.

transformers draws at random what it does not find, and passes over what it has no place for. Here only a head may be
new, which every adapter trains and saves; a BERT's pooler counts as one, since a masked language model has none.
"""

import inspect
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from ..errors import SettingsError, TrainingFailed
from ..formats.read import header
from ..models.heads import task_heads
from ..models.sites import Sites

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_POSITIVE = ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "head_dim")
_COUNTS = ("max_position_embeddings", "type_vocab_size")
_MANY = 200  # layers; no model has so many yet
_LARGE = 20_000_000  # positions, and any other size; a table of so many numbers takes 160 MB


class LoadingReport(TypedDict):
    """What transformers reports on loading a model."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]]
    """Each with the shape in the files and the model's."""
    error_msgs: NotRequired[Collection[str] | None]


@dataclass(frozen=True)
class Findings:
    """What loading said of a checkpoint that can be used."""

    heads: tuple[str, ...]
    """The modules outside the pretrained base, and a pooler that its files lack."""
    notes: tuple[str, ...]
    """What is new, and what of the files is not used."""


def findings(name: str, model: nn.Module, info: LoadingReport) -> Findings:
    """Read transformers' report on loading the model `name`, empty or not.

    Raises SettingsError if a weight of the pretrained base is missing or has another shape, or if the files have layers
    for which the model has no place.
    """
    if problems := list(info.get("error_msgs") or ()):
        raise SettingsError(f"model {name!r}: its weights cannot be loaded: {problems[0]}")
    heads, pooler = task_heads(model), _pooler(model)
    own = (*heads, *pooler)
    mismatched = {key: (tuple(stored), tuple(there)) for key, stored, there in info["mismatched_keys"]}
    missing = sorted(info["missing_keys"])
    if broken := [key for key in missing if not _inside(key, own)]:
        raise SettingsError(
            f"model {name!r} has no weights for {_listed(broken)} of {type(model).__name__}, which would be drawn at "
            "random; its files are not whole, or are another model's than its config.json describes: copy it again"
        )
    if broken := [key for key in sorted(mismatched) if not _inside(key, heads)]:
        stored, there = (" x ".join(map(str, shape)) for shape in mismatched[broken[0]])
        raise SettingsError(
            f"model {name!r} has {broken[0]} as {stored}, where {type(model).__name__} by its config.json has {there}"
            f"{_more(broken)}; its files belong to another model, or config.json was changed: copy it again"
        )
    surplus = sorted(info["unexpected_keys"])
    if past := _layers_without_place(model, surplus):
        raise SettingsError(
            f"model {name!r} has weights for {_listed(past)}, for which {type(model).__name__} by its config.json has "
            "no layer; leave the files as they were, or remove the layers from the weights too"
        )
    new = sorted({_owner(key, own) for key in (*missing, *mismatched)})
    notes: list[str] = []
    if new:
        notes.append(f"{' and '.join(new) or 'the head'} of {type(model).__name__} is new and drawn at random")
        if mismatched:
            stored, there = next(iter(mismatched.values()))
            notes[-1] += f": the one in the files is for {stored[0]} labels, and here there are {there[0]}"
    if surplus:
        notes.append(f"not used of the files of {name}: {_listed(surplus)}")
    return Findings((*heads, *(p for p in pooler if p in new)), tuple(notes))


def check_sizes(name: str, config: "PreTrainedConfig", folder: Path) -> None:
    """Raise SettingsError for a size below one, and for layers or sizes far beyond what the files in `folder` hold.

    Making a model of so many would take hours, and more memory than there is.
    """
    most = max(_LARGE, sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
    of_texts = config.get_text_config()
    for key in (*_POSITIVE, *_COUNTS):
        value = getattr(of_texts, key, None)
        if not isinstance(value, int):
            continue
        if value < 1 and key in _POSITIVE:
            raise SettingsError(f"model {name!r} has {key} {value!r} in its config.json; it must be a number above 0")
        if value > most:
            raise SettingsError(
                f"model {name!r} has {key} {value} in its config.json, far beyond what its files hold; copy it again"
            )
    if (key := _nan_in(config.to_dict())) is not None:  # an infinity says that there is no limit
        raise SettingsError(f"model {name!r} has NaN for {key} in its config.json; it must be a number: copy it again")
    layers = max(_layer_counts(config), default=0)
    if layers > _MANY:
        stored = sum(len(header(path)[0]) for path in folder.glob("*.safetensors"))
        if layers > (stored or 100 * _MANY):
            raise SettingsError(
                f"model {name!r} has {layers} layers by its config.json and {stored} tensors in its files; copy it "
                "again"
            )


def check_numbers(name: str, key: str, parameter: Tensor) -> None:
    """Raise TrainingFailed, as for any NaN, if a weight of the model `name` has numbers that are not finite."""
    p = parameter.detach()
    if p.is_floating_point() and p.itemsize > 1 and p.numel():  # smaller ones have no order
        if not torch.stack(torch.aminmax(p)).isfinite().all():
            raise TrainingFailed(
                f"model {name!r} has numbers in {key} that are not finite; its files are damaged: copy it again"
            )


def _nan_in(value: object, key: str = "") -> str | None:
    """Find the key of the first number in a configuration that is NaN; None if there is none."""
    if isinstance(value, dict):
        return next((found for k, v in value.items() if (found := _nan_in(v, str(k))) is not None), None)
    if isinstance(value, list | tuple):
        return next((found for v in value if (found := _nan_in(v, key)) is not None), None)
    return key if isinstance(value, float) and value != value else None


def _layer_counts(config: "PreTrainedConfig") -> list[int]:
    own = [value for key, value in vars(config).items() if "layers" in key or key in ("n_layer", "depth")]
    own += [getattr(config, "num_hidden_layers", 0)]
    parts = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    counts = [value for value in own if isinstance(value, int)]
    return counts + [count for part in parts for count in _layer_counts(part)]


def _pooler(model: nn.Module) -> tuple[str, ...]:
    """Name the pooler of the pretrained base, if its class can be without one."""
    base = getattr(model, "base_model", model)
    optional = "add_pooling_layer" in inspect.signature(type(base).__init__).parameters
    if not optional or base is model or getattr(base, "pooler", None) is None:
        return ()
    return (f"{model.base_model_prefix}.pooler",)


def _inside(key: str, modules: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{name}.") if name else "." not in key for name in modules)


def _owner(key: str, modules: tuple[str, ...]) -> str:
    return next(name for name in modules if _inside(key, (name,)))


def _layers_without_place(model: nn.Module, surplus: list[str]) -> list[str]:
    """Name the layers of the files that come after the last one of the model."""
    last: dict[str, int] = {}
    for name in Sites(model, ()).blocks:
        stack, _, number = name.rpartition(".")
        if number.isdigit():
            last[stack] = max(last.get(stack, 0), int(number))
    prefix = getattr(model, "base_model_prefix", "")
    past: set[str] = set()
    for stack, number in last.items():
        names = {stack, stack.removeprefix(f"{prefix}.")}
        pattern = re.compile(rf"((?:{re.escape(prefix)}\.)?(?:{'|'.join(map(re.escape, names))})\.(\d{{1,9}}))\.")
        past |= {found[1] for key in surplus if (found := pattern.match(key)) and int(found[2]) > number}
    return sorted(past)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + _more(names[2:])


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
