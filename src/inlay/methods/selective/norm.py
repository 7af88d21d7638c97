"""Norm tuning.   https://arxiv.org/abs/2312.11420

The weights are trained in float32 beside the base: a step of 1e-4 from a weight of 1 is lost in bfloat16, where nothing
would ever change. Checkpoints hold the new weights themselves, as in Hugging Face PEFT.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ...attached.replacement import Replacement
from ...core.delta import Delta
from ...core.method import Method, Rates
from ...formats.peft_config import PeftConfig, targets_of
from ...formats.peft_format import PeftFormat
from ...formats.peft_names import PREFIX
from ...models import sites as sites_
from ...models.modules import is_norm
from ...models.sites import Sites


class NormFormat(PeftFormat["NormTuning"]):
    def key(self, host: str, parameter: str) -> str:
        return f"{PREFIX}{host}.ln_tuning_layers.{parameter}"

    def config(self, method: "NormTuning", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return {"target_modules": sites_.shortest_suffixes(sites.model, hosts)}

    def read(self, kind: "type[NormTuning]", config: PeftConfig) -> "NormTuning":
        return kind(targets=targets_of(config))


@dataclass(frozen=True, kw_only=True)
class NormTuning(Method):
    """Trains the weight, and the bias if there is one, of every normalization.

                                    ╔═════╗
                                    ║ g D ║
             ┌─────────────┐        ╚══╤══╝
        x ──▶│  normalize  │──▶ n ───▶ × ────▶ + ────▶ y
             └─────────────┘                   ▲
                                            ╔══╧══╗
                                            ║ b D ║   (an RMSNorm has none)
                                            ╚═════╝

        y = g' * n + b'        one factor and one shift for each of D features

    When: To move a model to another kind of input with very few numbers: the paper tunes the norms to turn language
    models into ones that read images. It is also a small part of houlsby. Not for a task with much to learn: it makes
    features louder or softer, but cannot mix them anew.

    Cost: Next to nothing for the optimizer to keep; the activations remain. A step takes about two thirds of full
    fine-tuning's arithmetic. Merged, it costs nothing at inference.
    """

    name, family, paper = "norm", "selective", "https://arxiv.org/abs/2312.11420"
    summary = "the weight and bias of every normalization"
    learning_rate = Rates(reading=8e-3, writing=5e-2, warmup_steps=20)
    format = NormFormat(peft_type="LN_TUNING", read_by_peft=True, known=frozenset())

    targets: tuple[str, ...] = ("norms",)
    """Which normalizations: norms (all of them), ends of module names, or patterns of whole names (regex)."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for name in sites.find(self.targets, hosts=is_norm):
            host = sites.module(name)
            yield name, Replacement(host, tuple(n for n, p in host._parameters.items() if p is not None))
