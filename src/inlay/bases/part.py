"""The part of a base that a run is kept to: its rows are texts, so of a model with other towers its language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..models.heads import output_embeddings, task_heads
from ..models.language_model import language_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class TextPart:
    name: str | None
    """The module; None for the whole base."""
    beside: tuple[str, ...] = ()
    """The modules with parameters that lie outside, the outermost of each, and no head."""
    left: str | None = None
    """The kind of the checkpoint, if the model is its language model alone."""

    @property
    def reason(self) -> str | None:
        """Why the run does not have the whole checkpoint, if so."""
        if self.name is not None:
            return f"the rows are texts, so {self.name} is trained; {_listed(self.beside)} stay as they are"
        if self.left is not None:
            return f"the rows are texts, so only the language model of the {self.left} checkpoint is loaded"
        return None


def part_for_texts(model: nn.Module, checkpoint: "PreTrainedConfig") -> TextPart:
    """Choose the part that reads texts; `checkpoint` is the configuration in the base's files."""
    name = language_model(model)
    if name is None:
        own: PreTrainedConfig = getattr(model, "config", checkpoint)
        return TextPart(None, left=checkpoint.model_type if own.model_type != checkpoint.model_type else None)
    return TextPart(name, tuple(_beside(model, "", name, _no_part_of_it(model))))


def _beside(module: nn.Module, prefix: str, part: str, kept: set[int]) -> Iterator[str]:
    for child_name, child in module.named_children():
        full = prefix + child_name
        if full == part or id(child) in kept or next(child.parameters(), None) is None:
            continue
        if part.startswith(full + "."):
            yield from _beside(child, full + ".", part, kept)
        else:
            yield full


def _no_part_of_it(model: nn.Module) -> set[int]:
    """Find the ids of the heads, which are trained whole or belong to the language model."""
    return {id(output_embeddings(model)), *(id(model.get_submodule(head)) for head in task_heads(model))}


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "the others"
