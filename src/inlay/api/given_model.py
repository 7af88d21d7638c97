"""A base that is given as a name, or as a model that is at hand.

A model object is never trained itself: it stays as it is, and the run has a model of its own. If its weights are those
of the files that it was loaded from, the run is one on these files, by their name. Otherwise its weights are written to
files that last as long as the run's object does, and the run is marked: to open it later, give the model again.
"""

import shutil
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from ..attached.adapter import adapters
from ..bases.base import OBJECT, Base, find_base, quiet
from ..errors import CheckpointError, SettingsError
from ..formats.base_files import fingerprint_of_files
from ..models.fingerprint import fingerprint
from ..models.heads import task_heads
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class GivenModel:
    """What settings name as their model, and its files if that is no name by which they are found."""

    name: str
    base: Base | None = None  # whose files are gone with this object

    def found(self) -> Base:
        """Return the base. Raises SettingsError if there is none by the name."""
        return self.base or find_base(self.name)


def given_model(model: "str | Path | PreTrainedModel", tokenizer: Tokenizer | None = None) -> GivenModel:
    """Take a folder, a name or a transformers model with its tokenizer. Raises SettingsError if it cannot be a base."""
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise SettingsError("tokenizer is given with the name of a model, which brings its own; leave it out")
        return GivenModel(str(model))
    if isinstance(model, type) or not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise SettingsError(f"model is {what}; give a folder, a name or a transformers model")
    if hasattr(model, "peft_config") or adapters(model):
        raise SettingsError("model has adapters attached; detach or merge them first, so that it is a base model")
    origin = _origin(model)
    if origin is not None and (tokenizer is None or tokenizer.name_or_path == model.name_or_path):
        return GivenModel(origin.name)
    if tokenizer is None:
        tokenizer = _own_tokenizer(model)
    folder = mkdtemp(prefix="inlay-base-")
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    name = f"{OBJECT}{type(model).__name__}"
    given = GivenModel(name, replace(find_base(folder), name=name))
    weakref.finalize(given, shutil.rmtree, folder, ignore_errors=True)
    return given


def _origin(model: "PreTrainedModel") -> Base | None:
    """Find the files that the model was loaded from, if its weights are still theirs and it has no head of its own."""
    if not model.name_or_path or task_heads(model):
        return None
    try:
        base = find_base(model.name_or_path, fetch=False)
        sites = Sites(model, ())
        same = fingerprint_of_files(Path(base.path), sites) == fingerprint(sites)
    except (SettingsError, CheckpointError):
        return None
    return base if same else None


def _own_tokenizer(model: "PreTrainedModel") -> Tokenizer:
    try:
        return find_base(model.name_or_path or "", fetch=False).tokenizer()
    except SettingsError:
        raise SettingsError(
            f"model is a {type(model).__name__} without a tokenizer, and none is found for {model.name_or_path!r}; "
            "give it as tokenizer="
        ) from None
