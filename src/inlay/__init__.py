"""Inlay fine-tunes a pretrained model by training a small part set into it.

    run = inlay.train("builtin:minilm", rows, inlay.LoRA(rank=16))     # rows: a path, dicts, a Dataset, a DataFrame
    run.predict("a text"); run.metrics; run.folder

    adapter = inlay.attach(model, inlay.LoRA(rank=16), name="default")
    ...                                                # any training loop
    adapter.save("out/adapter")                        # Hugging Face PEFT's format

Names are imported when they are first used, so that `import inlay` and `inlay --help` are quick.
"""

# ruff: noqa: F401, F403  (what type checkers and editors see of the package)

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.comparison import Comparison, compare
    from .api.plan import Costs, plan
    from .api.rank import RankAnalysis, RankSuggestion, suggest_rank
    from .api.run import Run, open
    from .api.training import resume, train
    from .attached.adapter import Adapter, adapters, attach
    from .core.active import activate, using
    from .core.delta import Delta, WeightDelta
    from .core.method import Method, Rates
    from .errors import InlayError
    from .formats.peft_format import PeftFormat
    from .methods import METHODS
    from .methods.loading import load
    from .methods.own import *
    from .registries import register

__version__ = "0.1.0"

_HOME = {
    "METHODS": "methods",
    "register": "registries",
    "activate": "core.active",
    "using": "core.active",
    "Adapter": "attached.adapter",
    "adapters": "attached.adapter",
    "attach": "attached.adapter",
    "Delta": "core.delta",
    "WeightDelta": "core.delta",
    "Method": "core.method",
    "Rates": "core.method",
    "InlayError": "errors",
    "load": "methods.loading",
    "PeftFormat": "formats.peft_format",
    "train": "api.training",
    "resume": "api.training",
    "plan": "api.plan",
    "Costs": "api.plan",
    "suggest_rank": "api.rank",
    "RankAnalysis": "api.rank",
    "RankSuggestion": "api.rank",
    "open": "api.run",
    "Run": "api.run",
    "compare": "api.comparison",
    "Comparison": "api.comparison",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name in _HOME:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, of a notebook: bars are shown without
            return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name[:1].isupper() and hasattr(
        own := import_module(".methods.own", __name__), name
    ):  # modules have small letters
        return getattr(own, name)
    raise AttributeError(f"module 'inlay' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names in order: constants, classes, functions."""
    own = vars(import_module(".methods.own", __name__))
    names = [*_HOME, *(name for name in own if name[0].isupper())]
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
