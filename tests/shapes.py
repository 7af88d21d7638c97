"""The small models of inlay.testing, and every method as it fits them."""

from typing import Any

import inlay
from inlay.testing.shapes import (
    BERT as BERT,
)
from inlay.testing.shapes import (
    GPT2 as GPT2,
)
from inlay.testing.shapes import (
    LABELS as LABELS,
)
from inlay.testing.shapes import (
    LLAMA as LLAMA,
)
from inlay.testing.shapes import (
    ROWS as ROWS,
)
from inlay.testing.shapes import (
    SHAPES as SHAPES,
)
from inlay.testing.shapes import (
    T5 as T5,
)
from inlay.testing.shapes import (
    TOKENS as TOKENS,
)
from inlay.testing.shapes import (
    VOCABULARY as VOCABULARY,
)
from inlay.testing.shapes import (
    Shape as Shape,
)
from inlay.testing.shapes import (
    disturb as disturb,
)
from inlay.testing.shapes import (
    logits as logits,
)


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
