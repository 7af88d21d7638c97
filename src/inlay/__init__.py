"""Inlay fine-tunes a pretrained model by training a small part set into it.

    adapter = inlay.attach(model, inlay.LoRA(rank=16), name="default")
    ...                                                # any training loop
    adapter.save("out/adapter")                        # Hugging Face PEFT's format

Names are imported when they are first used, so that `import inlay` and `inlay --help` are quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attached.adapter import Adapter, adapters, attach
    from .core.active import activate, using
    from .core.delta import Delta, WeightDelta
    from .core.method import Method
    from .errors import InlayError
    from .formats.peft import load
    from .methods import METHODS
    from .methods.additive.houlsby import Houlsby
    from .methods.additive.ia3 import IA3
    from .methods.additive.parallel import Parallel
    from .methods.additive.pfeiffer import Pfeiffer
    from .methods.full import Full
    from .methods.prompts.multitask import MultitaskPrompt
    from .methods.prompts.p_tuning import PTuning
    from .methods.prompts.prefix import PrefixTuning
    from .methods.prompts.prompt import PromptTuning
    from .methods.reparameterized.adalora import AdaLoRA
    from .methods.reparameterized.dora import DoRA
    from .methods.reparameterized.dynamic_rank import DynamicRank
    from .methods.reparameterized.loha import LoHa
    from .methods.reparameterized.lokr import LoKr
    from .methods.reparameterized.lora import LoRA
    from .methods.reparameterized.oft import OFT
    from .methods.reparameterized.vera import VeRA
    from .methods.selective.bias import BitFit
    from .methods.selective.last_layers import LastLayers
    from .methods.selective.norm import NormTuning
    from .methods.selective.pattern import Pattern
    from .methods.selective.sparse import SparseMask

__version__ = "0.1.0"

__all__ = [
    "IA3",
    "METHODS",
    "OFT",
    "AdaLoRA",
    "Adapter",
    "BitFit",
    "Delta",
    "DoRA",
    "DynamicRank",
    "Full",
    "Houlsby",
    "InlayError",
    "LastLayers",
    "LoHa",
    "LoKr",
    "LoRA",
    "Method",
    "MultitaskPrompt",
    "NormTuning",
    "PTuning",
    "Parallel",
    "Pattern",
    "Pfeiffer",
    "PrefixTuning",
    "PromptTuning",
    "SparseMask",
    "VeRA",
    "WeightDelta",
    "activate",
    "adapters",
    "attach",
    "load",
    "using",
]

_HOME = {
    "activate": "core.active",
    "using": "core.active",
    "Adapter": "attached.adapter",
    "adapters": "attached.adapter",
    "attach": "attached.adapter",
    "Delta": "core.delta",
    "WeightDelta": "core.delta",
    "Method": "core.method",
    "InlayError": "errors",
    "load": "formats.peft",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME.get(name, 'methods')}", __name__), name)


def __dir__() -> list[str]:
    return __all__
