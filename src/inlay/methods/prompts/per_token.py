"""What a transformer takes or looks up for each token beside its embedding, which a prompt's vectors must have too.

Shape suffixes: B batch, T text.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ...core.delta import Kwargs
from ...models.weights import Host

_OTHERS = ("attention_mask", "position_ids", "cache_position", "labels")


def per_token_arguments(host: Host, ids_BT: Tensor | None, shape: torch.Size, kwargs: Kwargs) -> dict[str, Tensor]:
    """Return the tensors (B, T, ...) for which a prompt has zeros, by argument: types of tokens, marks of images,
    embeddings of each layer. What the model would look up by the text's ids is looked up here, since it gets
    embeddings.
    """
    found = {
        name: value
        for name, value in kwargs.items()
        if isinstance(value, Tensor)
        and not value.is_floating_point()
        and value.shape[:2] == shape
        and not name.startswith(("encoder_", "decoder_"))
        and name not in _OTHERS
    }
    if (own := kwargs.get("per_layer_inputs")) is not None:
        found["per_layer_inputs"] = own
    elif ids_BT is not None and (reader := _per_layer_reader(host)) is not None:
        found["per_layer_inputs"] = reader.get_per_layer_inputs(_without_images(host, ids_BT))
    return found


def positions_of_ids(host: Host, ids_BT: Tensor | None) -> Tensor | None:
    """Return the positions that RoBERTa, and what was made after it, gives its tokens, not counting padding. None if
    the model counts all, or takes no positions.
    """
    if ids_BT is None or not takes_positions(host):
        return None
    reader = next((m for m in host.modules() if reads_padding(m)), None)
    if reader is None:
        return None
    padding = padding_of(reader)
    real_BT = (ids_BT != padding).long()
    return real_BT.cumsum(1) * real_BT + padding


def padding_of(reader: nn.Module) -> int:
    """Return the id that a module of `reads_padding` takes for padding, which is also its first position."""
    padding = reader.padding_idx
    assert isinstance(padding, int)
    return padding


def takes_positions(module: nn.Module) -> bool:
    return "position_ids" in inspect.signature(module.forward).parameters


def reads_padding(module: nn.Module) -> bool:
    """Tell whether it counts positions from ids."""
    code = inspect.unwrap(type(module).forward).__code__
    return hasattr(module, "padding_idx") and "create_position_ids_from_input_ids" in code.co_names


def _per_layer_reader(host: Host) -> Any:
    if "per_layer_inputs" not in inspect.signature(host.forward).parameters:
        return None
    reader = next((m for m in host.modules() if hasattr(m, "get_per_layer_inputs")), None)
    return reader if getattr(reader, "hidden_size_per_layer_input", 0) else None


def _without_images(host: Any, ids_BT: Tensor) -> Tensor:
    """Return the ids with padding where an image, a video or a sound will be, as the models themselves look them up."""
    config = host.config
    for name in ("image_token_id", "video_token_id", "audio_token_id"):
        if (special := getattr(config, name, None)) is not None:
            ids_BT = ids_BT.masked_fill(ids_BT == special, config.get_text_config().pad_token_id or 0)
    return ids_BT
