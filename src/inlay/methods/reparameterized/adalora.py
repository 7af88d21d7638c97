"""AdaLoRA.   https://arxiv.org/abs/2303.10512

A component is a triplet of an entry of E, a column of P and a row of Q. E starts as zero, P and Q as N(0, 0.02^2). With
I = |p dL/dp|, J <- b1 J + (1 - b1) I and U <- b2 U + (1 - b2) |I - J|, a triplet scores J U of its entry of E plus the
means of J U over its column and its row. The budget of triplets falls as a cubic, fast first.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ...core.attachment import Attachment
from ...core.method import Rates
from ...ranges import FACTOR, SHARE, WEIGHT
from .adalora_peft import KNOWN, AdaLoRAFormat
from .components import Components, components
from .rank_budget import RankBudget, fast_first


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(RankBudget):
    """LoRA in a form like a singular value decomposition, whose rank is shared out among the layers while it trains.

        ┌───────┐       ╔═══════╗ ╔═════════════╗ ╔═══════╗
        │       │       ║       ║ ║ e1          ║ ║       ║
        │ W O×I │ + s · ║ P O×R ║·║     0       ║·║ Q R×I ║  =  W'
        │       │       ║       ║ ║         e3  ║ ║       ║
        └───────┘       ╚═══════╝ ╚═════════════╝ ╚═══════╝
                                   E: components that matter little for the loss
                                   are set to zero, in whichever layers they are

        W' = W + s P diag(E) Q        s = alpha / initial_rank
        loss + orthogonality · mean of |P^T P - I| and |Q Q^T - I|
        p matters by |p dL/dp|: its average times the average of its uncertainty

    When: To spend a fixed number of components where they help most, or to learn which layers need rank: the report
    says what each kept. Not for runs of few steps, which leave no time for its phases.

    Cost: LoRA's at the initial rank throughout, and 8 bytes more for each trained number until the ranks are decided.
    The penalty takes products of R x R a layer. Merged, it costs nothing at inference.
    """

    name, family, paper = "adalora", "reparameterized", "https://arxiv.org/abs/2303.10512"
    summary = "LoRA as P diag(E) Q, its rank shared out among the layers by how much the loss depends on each part"
    learning_rate = Rates(reading=3e-3, writing=6e-3)
    format = AdaLoRAFormat(peft_type="ADALORA", read_by_peft=True, names={"coefficient": "lora_E"}, known=KNOWN)
    schedule = staticmethod(fast_first)

    alpha: Annotated[float, FACTOR] = 128.0
    """Strength: the change is scaled by alpha / initial rank."""
    beta1: Annotated[float, SHARE] = 0.85
    """Share of the old average in that of how much the loss depends on a number."""
    beta2: Annotated[float, SHARE] = 0.85
    """Share of the old average in that of how uncertain this is."""
    orthogonality: Annotated[float, WEIGHT] = 0.1
    """Weight in the loss of how far P and Q are from orthogonal."""

    def component_scale(self) -> float:
        return self.alpha / (self.initial_rank + 1e-5)  # as the authors' code and PEFT have it

    def start(self, delta: Components) -> None:
        nn.init.normal_(delta.lora_A, std=0.02)
        nn.init.normal_(delta.lora_B, std=0.02)

    def score(self, delta: Components) -> Tensor:
        of_e_R1, of_a_RI, of_b_OR = (self._dependence(delta, name) for name in ("coefficient", "lora_A", "lora_B"))
        return of_e_R1[:, 0] + of_a_RI.mean(1) + of_b_OR.mean(0)

    def _dependence(self, delta: Components, name: str) -> Tensor:
        p = delta.get_parameter(name)
        assert p.grad is not None
        now = (p * p.grad).abs()
        average = delta.average(name, now, self.beta1)
        return average * delta.average(f"{name} uncertainty", (now - average).abs(), self.beta2)

    def penalty(self, adapter: Attachment) -> Tensor | None:
        if not self.orthogonality:
            return None
        distances = [
            torch.linalg.norm((gram - torch.eye(len(gram), device=gram.device)) * delta.kept * delta.kept.T)
            for _, delta in components(adapter)
            for gram in (delta.lora_A @ delta.lora_A.T, delta.lora_B.T @ delta.lora_B)
        ]
        return self.orthogonality * torch.stack(distances).mean()
