"""Architectures of transformers as tiny random models: `build(name)` and `inputs(name)`."""

from typing import Any

from .architecture import Architecture, Batch
from .audio import AUDIO
from .decoders import DECODERS
from .encoder_decoders import ENCODER_DECODERS
from .encoders import ENCODERS
from .hybrids import HYBRIDS
from .mixtures import MIXTURES
from .vision import VISION
from .vision_language import VISION_LANGUAGE

ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        *DECODERS,
        *HYBRIDS,
        *MIXTURES,
        *ENCODERS,
        *ENCODER_DECODERS,
        *VISION,
        *AUDIO,
        *VISION_LANGUAGE,
    )
}


def build(name: str) -> Any:
    return ARCHITECTURES[name].build()


def inputs(name: str) -> Batch:
    """A batch with labels."""
    return ARCHITECTURES[name].batch()
