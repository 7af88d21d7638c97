"""Our own methods, in the order in which they are listed. A new one is its file and a line here."""
# ruff: noqa: I001

from .full import Full as Full

from .selective.bias import BitFit as BitFit
from .selective.norm import NormTuning as NormTuning
from .selective.last_layers import LastLayers as LastLayers
from .selective.pattern import Pattern as Pattern
from .selective.sparse import SparseMask as SparseMask

from .additive.houlsby import Houlsby as Houlsby
from .additive.pfeiffer import Pfeiffer as Pfeiffer
from .additive.parallel import Parallel as Parallel
from .additive.ia3 import IA3 as IA3

from .reparameterized.lora import LoRA as LoRA
from .reparameterized.dora import DoRA as DoRA
from .reparameterized.adalora import AdaLoRA as AdaLoRA
from .reparameterized.dynamic_rank import DynamicRank as DynamicRank
from .reparameterized.loha import LoHa as LoHa
from .reparameterized.lokr import LoKr as LoKr
from .reparameterized.vera import VeRA as VeRA
from .reparameterized.oft import OFT as OFT

from .prompts.prompt import PromptTuning as PromptTuning
from .prompts.p_tuning import PTuning as PTuning
from .prompts.multitask import MultitaskPrompt as MultitaskPrompt
from .prompts.prefix import PrefixTuning as PrefixTuning
