"""LoHa.   https://arxiv.org/abs/2108.06098 (FedPara)

Entry (o, i) of the change is the sum over p and q of A1[o,p] A2[o,q] B1[p,i] B2[q,i], which is again a product of two
thin matrices, (O, RR) times (RR, I). While that is the cheaper way, the change is applied so and its (O, I) entries are
never formed. B2 starts as zero, the others as U(-1/sqrt(n), 1/sqrt(n)) with n their columns.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ...core.method import Rates
from ...models import weights
from ...models.weights import Host
from .lycoris import KNOWN, Lycoris, LycorisFormat, Product, uniform, zeros


@dataclass(frozen=True, kw_only=True)
class LoHa(Lycoris):
    """Two low-rank products beside each weight, multiplied entry by entry and added to it.

        ┌───────┐        ╔════════╗ ╔════════╗       ╔════════╗ ╔════════╗
        │ W O×I │ + s · (║ A1 O×R ║·║ B1 R×I ║)  *  (║ A2 O×R ║·║ B2 R×I ║)
        └───────┘        ╚════════╝ ╚════════╝       ╚════════╝ ╚════════╝
                          rank R                  *   rank R        = up to rank R·R

        W' = W + s (A1 B1) * (A2 B2)        s = alpha / rank; * is entry by entry
        B2 starts at zero, so the model starts as the base

    When: For a change of high rank in few numbers: with LoRA's numbers at rank 2 R it can reach rank R·R. It comes from
    federated learning and is common for image models. Not where a plain LoRA's rank is enough, which is simpler and
    faster.

    Cost: A step takes what LoRA's of rank R·R would, or forms the whole change where that is cheaper; it is slower than
    LoRA either way. Merged, it costs nothing at inference.
    """

    name, family, paper = "loha", "reparameterized", "https://arxiv.org/abs/2108.06098"
    summary = "two low-rank products beside each weight, multiplied elementwise and added to it"
    learning_rate = Rates(reading=5e-3, writing=1.5e-2)
    format = LycorisFormat(peft_type="LOHA", read_by_peft=True, known=KNOWN)

    def delta(self, host: Host, rank: int) -> Product:
        return HadamardProduct(host, rank)


class HadamardProduct(Product):
    def __init__(self, host: Host, rank: int):
        super().__init__()
        out_features, in_features = weights.size(host)
        device = weights.device(host)
        self.is_thin = rank**2 * (out_features + in_features) < out_features * in_features
        self.hada_w1_a = uniform(out_features, rank, device)
        self.hada_w1_b = uniform(rank, in_features, device)
        self.hada_w2_a = uniform(out_features, rank, device)
        self.hada_w2_b = zeros(rank, in_features, device)

    def change(self) -> Tensor:
        return self.scale * (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        if not self.is_thin:
            return {}
        right_SI = (self.hada_w1_b[:, None] * self.hada_w2_b).flatten(0, 1)  # S = R R, over p and q
        left_OS = self.scale * (self.hada_w1_a[:, :, None] * self.hada_w2_a[:, None]).flatten(1)
        return {"weight": (left_OS, right_SI)}

    def changed(self, x_BTI: Tensor) -> Tensor:
        if not self.is_thin:
            return F.linear(x_BTI, self.change().to(x_BTI.dtype))
        left_OS, right_SI = self.factors()["weight"]
        return F.linear(F.linear(x_BTI, right_SI.to(x_BTI.dtype)), left_OS.to(x_BTI.dtype))
