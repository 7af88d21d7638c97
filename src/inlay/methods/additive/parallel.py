"""The parallel adapter: one bottleneck in each block, beside the feed-forward.   https://arxiv.org/abs/2110.04366

In a pre-LN model it reads what the feed-forward reads, behind the norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from ...core.delta import Args, Delta, Kwargs
from ...core.method import Method, Rates
from ...errors import TargetError
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.results import Result, first, with_first
from ...models.sites import Sites
from ...models.weights import Host
from ...ranges import FACTOR, RATIO
from .bottleneck import Bottleneck, size_of, uniform


@dataclass(frozen=True, kw_only=True)
class Parallel(Method):
    """Puts a small network of two layers beside the feed-forward of each block; both read the same input.

                ┌───────────────────────────┐
        z ───┬─▶│       feed-forward        │────────▶ + ──▶ y
             │  └───────────────────────────┘          ▲
             │  ╔══════╗           ╔════╗              │
             └─▶║ down ║── ReLU ──▶║ up ║──── · s ─────┘
                ╚══════╝           ╚════╝

        y = FFN(z) + s up(ReLU(down(z)))        s = scale
        up starts at zero, so the model starts as the base

    When: For tasks that need much capacity, such as summarization or translation, which the paper studies; it found
    beside better than behind, and the feed-forward the place where more numbers help most. Not with the default width
    if memory is short: a bottleneck of half the model's width is large, and a higher reduction_factor makes it small.

    Cost: By default it trains many numbers, all with a gradient and AdamW's averages. Its products do not wait for the
    feed-forward's, so it delays a token less than an adapter in line does; it stays at inference and cannot be merged.
    """

    name, family, paper = "parallel", "additive", "https://arxiv.org/abs/2110.04366"
    summary = "a two-layer bottleneck beside the feed-forward of each block"
    learning_rate = Rates(reading=5e-4, writing=5e-3, warmup_steps=20)
    format = PeftFormat(peft_type="INLAY_PARALLEL")

    reduction_factor: Annotated[float, RATIO] = 2.0
    """Width of the model divided by the width of the bottleneck."""
    scale: Annotated[float, FACTOR] = 4.0
    """Factor of the bottleneck's output."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        found = sites.feedforwards()
        if not found:
            raise TargetError(f"{type(sites.model).__name__} has no feed-forward that an adapter could stand beside")
        for block, start, end in found:
            host = sites.module(start)
            width = sites.width(block)
            bottleneck = (width, size_of(width, self.reduction_factor), weights.device(host), uniform)
            if start == end:
                yield start, Beside(*bottleneck, scale=self.scale)
                continue
            reader = BesideInput(*bottleneck)
            yield start, reader
            yield end, BesideOutput(reader, self.scale)


class Beside(Bottleneck):
    """A delta at a feed-forward that is one module, whose result may have other things beside it."""

    def __init__(self, *bottleneck: Any, scale: float):
        super().__init__(*bottleneck)
        self.scale = scale

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        h = first(result)
        x_BTD = args[0] if args else next(iter(kwargs.values()))
        return with_first(result, h + self.scale * self.change(x_BTD).view_as(h))


class BesideInput(Bottleneck):
    """A delta at the first layer of a feed-forward: it keeps what the layer reads until the last one has run."""

    x_BTD: Tensor | None = None

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        self.x_BTD = args[0]
        return result


class BesideOutput(Delta):
    """A delta at the last layer of the feed-forward: it adds the change that the first layer's input makes."""

    def __init__(self, reader: BesideInput, scale: float):
        super().__init__()
        self.reader = (reader,)  # in a tuple, so that it is no child of two modules
        self.scale = scale

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        (reader,) = self.reader
        x_BTD, reader.x_BTD = reader.x_BTD, None
        assert x_BTD is not None
        return with_first(result, first(result) + self.scale * reader.change(x_BTD))

    def edits_rows(self, host: Host) -> bool:
        return True
