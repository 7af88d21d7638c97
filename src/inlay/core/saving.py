"""Adapters written beside a model that saves itself, so that none is lost."""

from pathlib import Path

from ..models import sharded
from .attachment import Attachment
from .delta import WeightDelta

FOLDER = "adapters"  # in the model's, with a folder for each adapter


def save_beside(adapters: list[Attachment], folder: Path) -> str:
    """Write the adapters into `folder`; returns where they are, and what else the user should know."""
    spread = [each for each in adapters if any(sharded.is_shared_out(p) for p in each.parameters())]
    for adapter in adapters:
        if adapter not in spread:  # whose writing takes all processes, and here is one
            adapter.save(folder / FOLDER / adapter.name)
    names = " and ".join(repr(adapter.name) for adapter in adapters)
    said = f"{folder}: from_pretrained reads the base alone, without adapter {names}. "
    if spread:
        said += "Processes share out its tensors: to keep it, call adapter.save(FOLDER) on all of them"
    else:
        said += " ".join(f'Load it with inlay.load(model, "{folder / FOLDER / each.name}").' for each in adapters)
    if len(adapters) == 1 and all(isinstance(delta, WeightDelta) for delta in adapters[0].deltas.values()):
        said += " For one plain model: adapter.merge_and_detach().save_pretrained(FOLDER)"
    return said
