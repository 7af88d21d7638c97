"""The small models of inlay.testing, and every method as it fits them."""

from typing import Any

import inlay
from inlay.testing.shapes import BERT, GPT2, LABELS, LLAMA, ROWS, SHAPES, T5, TOKENS, VOCABULARY, Shape, disturb, logits

__all__ = [
    "BERT",
    "GPT2",
    "LABELS",
    "LLAMA",
    "ROWS",
    "SHAPES",
    "T5",
    "TOKENS",
    "VOCABULARY",
    "Shape",
    "disturb",
    "logits",
    "method",
    "needed",
]


def needed(name: str, shape: Shape) -> dict[str, Any]:
    """Return the settings that the method cannot do without."""
    return {"include": (rf".*\.{shape.config.num_hidden_layers - 1}\..*",)} if name == "pattern" else {}


def method(name: str, shape: Shape) -> Any:
    """Build the method with its defaults, but for the models' small size and for Llama and T5, which have no biases."""
    small: dict[str, Any] = {
        "houlsby": {"size": 8},
        "last-layers": {"layers": 1},
        "pfeiffer": {"reduction_factor": 2},
        "multitask-prompt": {"tokens": 5},
        "p-tuning": {"tokens": 5, "hidden_size": 8},
        "prefix": {"tokens": 5},
        "prompt": {"tokens": 5},
    }
    missing = {"bitfit": {"add_missing": shape.name in ("llama", "t5")}}
    return inlay.METHODS[name](**needed(name, shape), **small.get(name, {}), **missing.get(name, {}))
