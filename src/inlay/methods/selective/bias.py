"""BitFit.   https://arxiv.org/abs/2106.10199

Checkpoints hold the new biases themselves, not the differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ...attached.replacement import Replacement
from ...core.delta import Delta
from ...core.method import Method, Rates
from ...errors import TargetError
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.sites import Sites


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Trains the biases, the numbers that layers add to their outputs, and nothing else.

             ┌─────────┐
        x ──▶│  W O×I  │────▶ + ────▶ y          in every layer with a bias,
             └─────────┘      ▲                  normalizations included
                           ╔══╧══╗
                           ║ b O ║
                           ╚═════╝

        y = W x + b'        b' starts as the layer's own b

    When: For little to middling data on a base that has biases, such as BERT, RoBERTa or GPT-2: the paper found it
    close to full fine-tuning there. Not on Llama or T5, which have none: add_missing gives their linear layers new
    ones. Not for a task that asks for much that is new: a bias moves a layer's output by the same amount whatever the
    input is.

    Cost: Almost no memory beyond the base and its activations: a bias needs no input kept for its gradient. A step
    takes two products with each weight where full fine-tuning takes three. Merged, it costs nothing at inference;
    biases that were added have no place in the base, so they stay beside it.
    """

    name, family, paper = "bitfit", "selective", "https://arxiv.org/abs/2106.10199"
    summary = "the bias of every layer"
    learning_rate = Rates(reading=5e-3, writing=5e-2, warmup_steps=20)
    example = {"add_missing": True}  # a Llama has no biases
    format = PeftFormat(peft_type="INLAY_BITFIT")

    add_missing: bool = False
    """Give each linear layer without a bias one that starts at zero; Llama and T5, for example, have none at all. Not
    those that feed the state of a mixer, where padding would count for as much as the new bias."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        found = False
        left_out = sites.routers | set(sites.mixer_inputs()) if self.add_missing else ()
        for name, module in sites.body():
            missing = self.add_missing and weights.is_linear(module) and name not in left_out
            if (module._parameters.get("bias") is not None or missing) and name not in sites.bypassed:
                found = True
                yield name, Replacement(module, ("bias",))
        if not found:
            raise TargetError(
                f"{type(sites.model).__name__} has no biases to train; set method.add_missing, or use another method"
            )
