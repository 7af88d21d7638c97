"""Every method, by the name used in code, on the command line and in config files. Adding one adds a line here."""

from types import ModuleType

from ..core.method import Method
from . import additive, full, prompts, reparameterized, selective
from .additive.houlsby import Houlsby
from .additive.ia3 import IA3
from .additive.parallel import Parallel
from .additive.pfeiffer import Pfeiffer
from .full import Full
from .prompts.multitask import MultitaskPrompt
from .prompts.p_tuning import PTuning
from .prompts.prefix import PrefixTuning
from .prompts.prompt import PromptTuning
from .reparameterized.adalora import AdaLoRA
from .reparameterized.dora import DoRA
from .reparameterized.dynamic_rank import DynamicRank
from .reparameterized.loha import LoHa
from .reparameterized.lokr import LoKr
from .reparameterized.lora import LoRA
from .reparameterized.oft import OFT
from .reparameterized.vera import VeRA
from .selective.bias import BitFit
from .selective.last_layers import LastLayers
from .selective.norm import NormTuning
from .selective.pattern import Pattern
from .selective.sparse import SparseMask

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Full,
        BitFit,
        NormTuning,
        LastLayers,
        Pattern,
        SparseMask,
        Houlsby,
        Pfeiffer,
        Parallel,
        IA3,
        LoRA,
        DoRA,
        AdaLoRA,
        DynamicRank,
        LoHa,
        LoKr,
        VeRA,
        OFT,
        PromptTuning,
        PTuning,
        MultitaskPrompt,
        PrefixTuning,
    )
}

# Where each family is explained, in the module's docstring.
FAMILIES: dict[str, ModuleType] = {
    "baseline": full,
    "selective": selective,
    "additive": additive,
    "reparameterized": reparameterized,
    "prompts": prompts,
}
