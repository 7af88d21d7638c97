"""The module of a model that reads the text: where a prompt joins it.

Structure decides: it has token embeddings, takes embeddings in their place, and no language model's head is inside it.
"""

import inspect
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

from ...errors import TargetError
from ...models.heads import input_embeddings
from ...models.modules import has_config
from ...models.sites import Sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def readers_of(sites: Sites) -> tuple[nn.Module, nn.Module | None]:
    """Return the transformer that reads the text, and the decoder that reads its result, if there is one.

    Raises TargetError if the model reads no text, or takes no embeddings in its place.
    """
    model = sites.model
    embeddings = _embeddings(model)
    if not has_config(model) or embeddings is None:
        raise TargetError(f"{type(model).__name__} has no token embeddings that a prompt could join")
    if getattr(model.config, "is_encoder_decoder", False):
        decoder: Any = model.get_decoder()
        reader = model.get_encoder()
        while any(m is reader for m in decoder.modules()) and decoder.get_decoder() is not decoder:
            decoder = decoder.get_decoder()
    else:
        reader, decoder = _without_head(model, embeddings), None
    if _embeddings(reader) is None or not {"input_ids", "inputs_embeds"} <= _arguments(reader):
        what = type(model).__name__
        if reader is not model:
            what = f"{type(reader).__name__}, which reads the input of {what},"
        raise TargetError(f"{what} has no token embeddings that a prompt could join, or takes none as its input")
    return reader, decoder


def mask_reader(sites: Sites, reader: nn.Module) -> nn.Module:
    """Return the module that sees which of the reader's tokens are padding: the reader, or the one around it that makes
    its masks, as some models of images and text have it.
    """
    outer = getattr(sites.model, "base_model", sites.model)
    return outer if outer is not reader and _makes_masks(outer) and _embeddings(outer) is not None else reader


def embedding_of(transformer: nn.Module) -> nn.Embedding:
    """Find the token embeddings, (V, D), of a module of `readers_of` or `mask_reader`."""
    found = _embeddings(transformer)
    assert found is not None
    return found


def _without_head(model: "PreTrainedModel", embeddings: nn.Module) -> nn.Module:
    reader: Any = model.get_decoder()  # an encoder too; not base_model, whose forward some models go past
    head = model.get_output_embeddings()
    while head is not None and head is not embeddings and any(m is head for m in reader.modules()):
        inner = [m for m in reader.children() if m is not head and any(e is embeddings for e in m.modules())]
        if hasattr(reader, "get_decoder") and reader.get_decoder() is not reader:
            reader = reader.get_decoder()
        elif len(inner) == 1 and inner[0] is not embeddings:
            reader = inner[0]
        else:
            break
    return reader


def _makes_masks(module: nn.Module) -> bool:
    """Tell whether the module makes the attention's masks for the one inside it, which then cannot tell the padding."""
    names = inspect.unwrap(type(module).forward).__code__.co_names
    return any(name.startswith("create_") and "mask" in name for name in names)


def _arguments(module: nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


def _embeddings(module: nn.Module) -> nn.Embedding | None:
    """Find its token embeddings; None if it has something else there, or nothing."""
    found = input_embeddings(module)
    return found if _looks_up(found) and getattr(found.weight, "ndim", 0) == 2 else None


def _looks_up(module: nn.Module | None) -> TypeGuard[nn.Embedding]:
    return isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings")
