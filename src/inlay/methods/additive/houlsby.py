"""Houlsby's adapters: two bottlenecks in each block.   https://arxiv.org/abs/1902.00751

Each reads what the sub-layer's last projection gives, before the residual is added and before any norm; a dropout that
follows the projection falls on both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch.nn import functional as F

from ...core.delta import Delta
from ...core.method import Method
from ...errors import TargetError
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.sites import Sites
from ...ranges import COUNT
from ..selective.norm import NormTuning
from .bottleneck import AfterHost, normal


@dataclass(frozen=True, kw_only=True)
class Houlsby(Method):
    """Puts a small network of two layers behind the attention and behind the feed-forward of each block.

             ┌───────────────────────────────────────────────┐
             │  ┌───────────┐                                ▼
        x ───┴─▶│ sub-layer │─ y ─┬───────────────────▶ + ─▶ + ──▶ next
                └───────────┘     │ ╔══════╗   ╔════╗ ▲
                 attention, then  └▶║ down ║─f▶║ up ║─┘
                 feed-forward       ╚══════╝   ╚════╝
                                     D to size, size to D

        y' = y + up(f(down(y)))        f = GELU
        up starts at zero, so the model starts as the base; norms are trained too

    When: For many tasks on one encoder: the paper came within 0.4 % of full fine-tuning on GLUE and added 3.6 % of the
    parameters for each task. Also where the change should be more than linear in what the layer reads, which LoRA's is
    not. Not where each token must be fast at inference.

    Cost: A step is full fine-tuning's without the weights' gradients, plus four thin products for each block. At
    inference the adapters stay: two more layers wait in line after every sub-layer, and the function between them keeps
    them from being merged.
    """

    name, family, paper = "houlsby", "additive", "https://arxiv.org/abs/1902.00751"
    summary = "a two-layer bottleneck after the attention and one after the feed-forward of each block; all norms"
    learning_rate = 1e-3
    writing_rate = 5e-3
    format = PeftFormat(peft_type="INLAY_HOULSBY")

    size: Annotated[int, COUNT] = 64
    """Width of the bottleneck."""
    train_norms: bool = True
    """Train the weight and bias of every normalization too, as the paper does."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        ends = {end: sites.width(block) for block, end in sites.sublayer_ends()}
        if not ends:
            raise TargetError(
                f"{type(sites.model).__name__} has neither attention nor feed-forwards to put adapters at"
            )
        for name, width in ends.items():
            host = sites.module(name)
            yield name, AfterHost(width, self.size, weights.device(host), normal(0.01), F.gelu)
        if self.train_norms:
            yield from NormTuning().place(sites)
