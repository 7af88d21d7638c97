"""The language model inside a model that has other towers beside it, such as one that sees."""

from typing import TYPE_CHECKING

from torch import nn

from .heads import input_embeddings
from .modules import base_modules

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def language_model(model: nn.Module) -> str | None:
    """Name the module that reads the texts, where a model has other towers beside it; else None."""
    config = getattr(model, "config", None)
    texts, embeddings = texts_config(config), input_embeddings(model)
    if texts is config or embeddings is None:
        return None
    for name, module in base_modules(model):
        own: PreTrainedConfig | None = getattr(module, "config", None)
        if own is not None and type(own) is type(texts) and any(m is embeddings for m in module.modules()):
            # Of an encoder and a decoder that are models of their own, both read texts.
            half = getattr(config, "is_encoder_decoder", False) and not own.is_encoder_decoder
            return None if half else name or None
    return None


def texts_config(config: "PreTrainedConfig | None") -> "PreTrainedConfig | None":
    """Find the part of a model's configuration that is about what reads texts; as it is, if several are."""
    try:
        return config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    except ValueError:  # several parts do
        return config
