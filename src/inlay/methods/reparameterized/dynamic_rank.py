"""DoRA of Mao et al., dynamic rank.   https://arxiv.org/abs/2405.17357

Not the weight-decomposed DoRA of Liu et al., which has the same name. c starts as zero, a and b as U(-sqrt(6/n),
sqrt(6/n)) with n the inputs and the initial rank. The norms come from the thin factors: |Σ c_j b_j a_j'|^2 =
Σ c_i c_j (A A')_ij (B' B)_ij. The budget of components falls as a cubic, slow first. Until it is settled the loss gets
dispersion times the mean variance within the vectors a_i and b_i, so that no single entry dominates one.

As in the authors' code, where their paper differs (its equation 9, and twice this dispersion). Unlike it, none is
dropped when the budget says none, and equal shares do not make it drop more.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...attached.adapter import Adapter
from ...core.attachment import Attachment
from ...core.method import Rates
from ...formats.peft_config import PeftConfig
from ...formats.peft_format import PeftFormat, format_of
from ...models.sites import Sites
from ...ranges import FACTOR, SHARE, WEIGHT
from .components import Components, components
from .lora import LoRA
from .rank_budget import RankBudget, slow_first


class DynamicRankFormat(PeftFormat["DynamicRank"]):
    """The form of a LoRA, which is what is saved, and what it is read as."""

    def write(
        self, adapter: Adapter, method: "DynamicRank", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Give it scale 1: the scale and the coefficients are in its first factor, and what is gone is left out."""
        tensors = dict(tensors)
        ranks: dict[str, int] = {}
        for host, delta in components(adapter):
            kept, (a_RI, b_OR) = delta.kept[:, 0].nonzero()[:, 0], delta.matrices()
            for name in ("lora_A", "lora_B", "coefficient", "kept"):
                del tensors[self.key(host, name)]
            if len(kept):
                ranks[host] = len(kept)
                tensors[self.key(host, "lora_A")] = a_RI.detach()[kept]
                tensors[self.key(host, "lora_B")] = b_OR.detach()[:, kept]
        lora = LoRA.of_ranks(ranks, dropout=method.dropout)
        return format_of(lora).config(lora, sites, list(ranks)), tensors

    def reads(self, config: PeftConfig) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class DynamicRank(RankBudget):
    """LoRA as a sum of weighted components, of which those with a small share of their layer's change are dropped.

        ┌───────┐        ╔════════════╗   ╔════════════╗         ╔════════════╗
        │ W O×I │ + s · (║ c1 b1 a1^T ║ + ║ c2 b2 a2^T ║ + ... + ║ cR bR aR^T ║)
        └───────┘        ╚════════════╝   ╚════════════╝         ╚════════════╝
         share of change      0.61             0.02                   0.30
                              stays          dropped                 stays

        W' = W + s sum_i c_i b_i a_i^T        s = alpha / initial_rank
        share_i = |c_i b_i a_i^T| / |sum_j c_j b_j a_j^T|, averaged over the steps

    When: As adalora: to let layers have the rank they use, here judged by the size of what a component does and not by
    the loss's gradient. What it leaves is a plain LoRA with a rank for each layer. Not for runs of few steps. (Its
    paper calls it DoRA too; what is known by that name is dora.)

    Cost: LoRA's at the initial rank throughout, with small products of the thin factors after each step. Merged, it
    costs nothing at inference.
    """

    name, family, paper = "dynamic-rank", "reparameterized", "https://arxiv.org/abs/2405.17357"
    summary = "LoRA as a sum of weighted components, of which the layers keep those with a large share of their change"
    learning_rate = Rates(reading=4e-3, writing=1.2e-2)
    format = DynamicRankFormat(
        peft_type="LORA", read_by_peft=True, names={"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
    )
    schedule = staticmethod(slow_first)

    alpha: Annotated[float, FACTOR] = 16.0
    """Strength: the change is scaled by alpha / initial rank."""
    beta: Annotated[float, SHARE] = 0.9
    """Share of the old average in that of a component's share of the change."""
    dispersion: Annotated[float, WEIGHT] = 0.3
    """Weight in the loss of the variance within the components' vectors."""

    def component_scale(self) -> float:
        return self.alpha / self.initial_rank

    def start(self, delta: Components) -> None:
        for p in (delta.lora_A, delta.lora_B):
            bound = math.sqrt(6 / p.shape[1])
            torch.nn.init.uniform_(p, -bound, bound)

    def score(self, delta: Components) -> Tensor:
        c_R = (delta.coefficient * delta.kept)[:, 0]
        gram_RR = (delta.lora_A @ delta.lora_A.T) * (delta.lora_B.T @ delta.lora_B)
        own_R = c_R.abs() * gram_RR.diagonal().sqrt()
        whole = (c_R @ gram_RR @ c_R).clamp(min=0).sqrt()  # rounding may leave a sum that cancels out below zero
        return delta.average("share", own_R / (whole + 1e-8), self.beta)

    def penalty(self, adapter: Attachment) -> Tensor | None:
        deltas = [delta for _, delta in components(adapter)]
        if not self.dispersion or deltas[0].settled:
            return None
        variances = [_variance(p_RN) for delta in deltas for p_RN in (delta.lora_A, delta.lora_B.T)]
        return self.dispersion * torch.cat(variances).mean()


def _variance(p_RN: Tensor) -> Tensor:
    return p_RN.var(1, correction=min(1, p_RN.shape[1] - 1))  # the unbiased one, but of a single entry
