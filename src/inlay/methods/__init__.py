"""Every method, by the name used in code, on the command line and in config files. Adding one adds a line here."""

from ..core.method import Method
from .additive.bottleneck import Pfeiffer
from .full import Full
from .prompts.prompt import PromptTuning
from .reparameterized.lora import LoRA
from .selective.bias import BitFit

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Full,
        BitFit,
        Pfeiffer,
        LoRA,
        PromptTuning,
    )
}
