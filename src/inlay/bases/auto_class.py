"""Which class of transformers a base becomes: one that writes texts, or one that labels them; and that it reads texts.

A checkpoint that reads pictures or sounds beside texts becomes the class of its language model where transformers has
one by itself, and else the whole, whose other towers stay idle.
"""

import copy
import inspect
from collections.abc import Collection

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from ..errors import SettingsError
from ..formats.read import guarded

AutoClass = type[_BaseAutoModelClass]
_READS_MORE = {  # beside texts
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
}


def writer_class(config: transformers.PreTrainedConfig) -> AutoClass:
    """Raise SettingsError for a model that does not write a text word by word."""
    if (kind := no_writer(config)) is not None:
        raise SettingsError(f"the model is {kind}; it writes no texts")
    if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    return next(getattr(transformers, name) for name in _READS_MORE if config.model_type in _names(name))


def no_writer(config: transformers.PreTrainedConfig) -> str | None:
    """Say what the model is, if it does not write a text word by word; else None."""
    if config.is_encoder_decoder:
        return "an encoder-decoder"
    kind = config.model_type
    if kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "an encoder"
    writes = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *map(_names, _READS_MORE))
    return None if any(kind in names for names in writes) else f"of the kind {kind}, which no language model is"


def labeller_class(config: transformers.PreTrainedConfig) -> AutoClass:
    """Raise SettingsError for a model of which transformers makes no classifier of texts."""
    known = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if config.model_type not in known:
        raise SettingsError(
            f"the rows have labels, and transformers has no classifier of texts for a model of the kind "
            f"{config.model_type}; name another model"
            + ("" if no_writer(config) else ", or write the labels as texts, in rows with prompt and completion")
        )
    return transformers.AutoModelForSequenceClassification


def empty_model(auto_class: AutoClass, config: transformers.PreTrainedConfig) -> nn.Module:
    """Make a model without values. Raises SettingsError if it needs what is not installed, or more than texts."""
    of = f"a model of the kind {config.model_type}"
    with guarded(of, "a config.json", todo="copy the model again", error=SettingsError):
        try:
            with torch.device("meta"):
                # In 16 bits, as some operations of experts refuse float32 where there are no values.
                # The configuration would remember it, and the weights be loaded in it.
                model = auto_class.from_config(copy.deepcopy(config), dtype=torch.bfloat16)
        except ImportError as problem:
            lines = " ".join(str(problem).split())
            raise SettingsError(f"{of} cannot be made here: {lines}") from None
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed := [p.name for p in named if p.default is p.empty and p.name != "input_ids"]:
        raise SettingsError(f"{type(model).__name__} does not run on texts alone: it needs {', '.join(needed)} too")
    return model


def _names(auto_class: str) -> Collection[str]:
    return getattr(modeling_auto, _READS_MORE[auto_class], {})
