"""Pfeiffer's adapter: one bottleneck in each block.   https://arxiv.org/abs/2005.00247

With f the feed-forward's output and x its residual, a block ends with f + x (pre-LN) or LN(f + x) (post-LN). That end
is u, which the adapter reads; its output joins the sum, before the block's own norm if it has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from ...core.delta import Args, Delta, Kwargs
from ...core.method import Method, Rates
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.results import Result, first
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import RATIO
from .bottleneck import AfterHost, Bottleneck, normal, size_of


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(Method):
    """Puts a small network of two layers at the end of each block, after the feed-forward.

             ┌────────────────────┐
             │  ┌──────────────┐  ▼
        x ───┴─▶│ feed-forward │─▶ + ─ u ─┬────────────────────────▶ + ──▶ next
                └──────────────┘          │ ╔══════╗        ╔════╗ ▲
                                          └▶║ down ║─ReLU──▶║ up ║─┘
                                            ╚══════╝        ╚════╝

        pre-LN     x + FFN + up(ReLU(down(u)))          u = x + FFN
        post-LN    LN(x + FFN + up(ReLU(down(u))))      u = LN(x + FFN)

    When: As houlsby, with one adapter in each block instead of two and the norms left frozen: faster, and with fewer
    numbers for the same width. Not where it has to be merged.

    Cost: A step is full fine-tuning's without the weights' gradients, plus two thin products for each block (and the
    block's norm again in post-LN models). At inference the adapter stays, in line after every block, and cannot be
    merged.
    """

    name, family, paper = "pfeiffer", "additive", "https://arxiv.org/abs/2005.00247"
    summary = "a two-layer bottleneck after the feed-forward of each block"
    learning_rate = Rates(reading=3e-3, writing=7e-3)
    format = PeftFormat(peft_type="INLAY_PFEIFFER")

    reduction_factor: Annotated[float, RATIO] = 16.0
    """Width of the model divided by the width of the bottleneck."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for block, (name, host) in zip(sites.blocks, sites.block_ends(), strict=True):
            width = sites.width(block)
            delta = AfterHost if name == block else AfterNorm
            yield name, delta(width, size_of(width, self.reduction_factor), weights.device(host), normal(0.02))


class AfterNorm(Bottleneck):
    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        return host.forward(args[0] + self.change(first(result)))
