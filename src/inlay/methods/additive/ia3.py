"""IA3: learned vectors.   https://arxiv.org/abs/2205.05638

A gate commutes with l_ff, so a gated feed-forward is scaled at the same place. Where one layer gives queries, keys and
values, the queries are not scaled.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ... import expressions
from ...attached.adapter import Adapter
from ...core.delta import Delta
from ...core.method import Method, Rates
from ...errors import CheckpointError, SettingsError, TargetError
from ...formats.peft_config import PeftConfig, targets_of
from ...formats.peft_format import PeftFormat
from ...models import sites as sites_
from ...models import weights
from ...models.sites import Sites
from .keys_values import keys_values
from .scaling import ScaleInput, ScaleOutput


class IA3Format(PeftFormat["IA3"]):
    def write(
        self, adapter: Adapter, method: "IA3", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        tensors, inputs, outputs = dict(tensors), [], []
        for name, _, delta in adapter.hosts():
            if isinstance(delta, ScaleOutput):  # PEFT has a number for each output, so the queries' is one
                key = self.key(name, "ia3_l")
                tensors[key] = F.pad(tensors[key], (0, 0, delta.start, 0), value=1.0)
                outputs.append(name)
            elif isinstance(delta, ScaleInput):
                inputs.append(name)
        flipped = any(weights.is_flipped(host) for _, host, _ in adapter.hosts())
        return _peft_targets(sites, outputs, inputs) | {"fan_in_fan_out": flipped}, tensors

    def read(self, kind: "type[IA3]", config: PeftConfig) -> "IA3":
        targets, feedforward = targets_of(config), config["feedforward_modules"]
        if feedforward is None:
            raise CheckpointError("adapter_config.json: feedforward_modules is null; list the modules, or none: []")
        if not isinstance(feedforward, str):  # PEFT takes these for ends of names, without a dot before them
            feedforward = "|".join(f".*{re.escape(end)}" for end in feedforward)
        return kind(
            targets=targets,
            feedforward=(f"(?:{feedforward})",) if feedforward else (),
        )


@dataclass(frozen=True, kw_only=True)
class IA3(Method):
    """Multiplies keys, values and the inner activations of each feed-forward by learned vectors.

                  ╔═══════╗                             ╔════════╗
        x ─┬─ W_k ╢ × l_k ╟─▶ k ─┐         z ─ W_1 ─ f ─╢ × l_ff ╟─ W_2 ─▶ y
           │      ╚═══════╝      │                      ╚════════╝
           ├─ W_q ───────────▶ q ┼─▶ attention
           │      ╔═══════╗      │
           └─ W_v ╢ × l_v ╟─▶ v ─┘
                  ╚═══════╝

        softmax(q (l_k * K)^T / sqrt(d)) (l_v * V)        W_2 (l_ff * f(W_1 x))
        * is entry by entry; vectors start at one, so the model starts as the base

    When: For a handful of examples, for which it was made as the alternative to examples in the prompt, and for very
    many tasks on one base: an adapter is a few vectors. Not for a task with much to learn: it makes what is already
    there stronger or weaker.

    Cost: Next to nothing for the optimizer to keep; the activations remain. A step takes about two thirds of full
    fine-tuning's arithmetic. Merged into the rows or columns of the weights, it costs nothing at inference.
    """

    name, family, paper = "ia3", "additive", "https://arxiv.org/abs/2205.05638"
    summary = "vectors that scale keys, values and the inner activations of each feed-forward"
    learning_rate = Rates(reading=2.5e-2, writing=1.5e-1)
    format = IA3Format(
        peft_type="IA3",
        read_by_peft=True,
        known=frozenset({"feedforward_modules", "fan_in_fan_out", "init_ia3_weights"}),
    )

    targets: tuple[str, ...] = ()
    """Which layers: ends of module names, or patterns of whole names (regex). By default, as in the paper, those that
    compute keys and values and the last one of each feed-forward."""
    feedforward: tuple[str, ...] = ()
    """Which of the targets are scaled at their input instead of their output, likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern in self.feedforward:
            expressions.check(pattern, "method.feedforward is", SettingsError)
        if self.feedforward and not self.targets:
            raise SettingsError("method.feedforward chooses among method.targets, which is empty; set both or neither")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        if not self.targets:
            outputs = keys_values(sites)
            inputs = [name for name in sites.feedforward_ends() if name not in sites.bypassed]
            if not outputs:
                raise TargetError(
                    f"{type(sites.model).__name__} has no attention whose keys and values could be told; name layers "
                    "as method.targets"
                )
        else:
            names = sites.find(self.targets)
            for target in self.feedforward:
                if not any(_fits(target, name) for name in names):
                    raise TargetError(
                        f"feedforward {target!r} is none of the {len(names)} modules that targets selects"
                    )
            inputs = [name for name in names if any(_fits(target, name) for target in self.feedforward)]
            outputs = dict.fromkeys((name for name in names if name not in inputs), 0)
        for name, start in outputs.items():
            yield name, ScaleOutput(sites.module(name), start)
        for name in inputs:
            yield name, ScaleInput(sites.module(name))


def _fits(target: str, name: str) -> bool:
    return sites_.ends_with(name, target) or expressions.fits(target, name)


def _peft_targets(sites: Sites, outputs: list[str], inputs: list[str]) -> dict[str, object]:
    ends = [sites_.shortest_suffixes(sites.model, names) for names in (outputs, inputs)]
    if any(isinstance(e, str) for e in ends) or any(name.endswith(tuple(ends[1])) for name in outputs):
        whole = ["|".join(re.escape(name) for name in names) for names in (outputs + inputs, inputs)]
        return {"target_modules": whole[0], "feedforward_modules": whole[1]}
    return {"target_modules": [*ends[0], *ends[1]], "feedforward_modules": [*ends[1]]}
