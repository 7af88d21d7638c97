"""The last blocks trained whole, on a frozen model.   https://arxiv.org/abs/1911.03090

After the blocks come the final normalization, a pooler and the head. An encoder-decoder's blocks are the decoder's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from ...core.delta import Delta
from ...core.method import Method, Rates
from ...errors import TargetError
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.block_end import UNKNOWN, final_norm
from ...models.language_model import language_model
from ...models.modules import is_norm
from ...models.sites import Sites
from ...ranges import Range
from .retrained import Retrained


@dataclass(frozen=True, kw_only=True)
class LastLayers(Method):
    """Trains the last blocks whole, and what comes after them; everything below is frozen.

             ┌─────────┐           ┌───────────┐  ╎  ╔═════════╗   ╔══════╗
        x ──▶│ block 1 │──▶ ... ──▶│ block L-k │──╎─▶║ block L ║──▶║ norm ║──▶ y
             └─────────┘           └───────────┘  ╎  ╚═════════╝   ╚══════╝
               forward only, nothing is kept      ╎  the last k = layers blocks

        h = f_L(... f_(L-k+1)(stop(f_(L-k)(... f_1(x)))))
        stop: no gradient goes further down; with layers = 0 only a head is trained

    When: For a quick run on a task near to what the base was trained for: the paper found the last quarter of BERT's
    and RoBERTa's layers enough for 90 % of full fine-tuning's quality. Not when what must change lies low in the
    network, such as another language or kind of text, and not for many tasks: whole blocks are large files.

    Cost: Fast steps, since the backward pass ends at the cut and nothing is kept below it; the gradients and AdamW's
    averages of whole blocks can still be large. Merged, it costs nothing at inference.
    """

    name, family, paper = "last-layers", "selective", "https://arxiv.org/abs/1911.03090"
    summary = "the last blocks whole, with what comes after them"
    learning_rate = Rates(reading=7e-4, writing=4e-3, width_power=1.5)
    format = PeftFormat(peft_type="INLAY_LAST_LAYERS")

    layers: Annotated[int, Range(0, 100_000)] = 2
    """How many blocks are trained, counted from the end; 0 trains the head only."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        kind = type(sites.model).__name__
        if self.layers == 0:
            if not sites.heads:
                raise TargetError(
                    f"method.layers is 0, which trains the head only, but {kind} has none; take 1 or more"
                )
            return
        blocks = _last_stack(sites)
        if self.layers > len(blocks):
            raise TargetError(f"method.layers is {self.layers}, but {kind} has {len(blocks)} blocks; take fewer")
        trained = [*blocks[-self.layers :], *_after(sites, blocks[-1])]
        for name, module in sites.body():
            own = tuple(n for n, p in module._parameters.items() if p is not None)
            if name in sites.bypassed or not (own or weights.statistics(module)):
                continue
            if any(name == top or name.startswith(top + ".") for top in trained):
                yield name, Retrained(module, own)


def _last_stack(sites: Sites) -> list[str]:
    """Name the blocks that run one after the other up to the head."""
    stacks = {name: list(blocks) for name, blocks in sites.stacks.items()}
    if not stacks:
        raise TargetError(f"{type(sites.model).__name__} has no transformer blocks that could be recognised")
    if (
        sites.part is None and (texts := language_model(sites.model)) is not None
    ):  # what other towers give goes in there
        stacks = {name: blocks for name, blocks in stacks.items() if name.startswith(texts + ".")} or stacks
    is_pair = getattr(sites.config, "is_encoder_decoder", False)
    blocks = list(stacks.values())[-1] if is_pair else max(stacks.values(), key=len)
    if len(blocks) == 1 < getattr(sites.config, "num_hidden_layers", 1):
        raise TargetError(f"{type(sites.model).__name__} runs one block again and again: it has no last ones to train")
    return blocks


def _after(sites: Sites, block: str) -> Iterator[str]:
    """Yield the final normalization and the pooler, which are beside the stack of blocks or beside what holds it."""
    post_norm = final_norm(sites.blocks[block]) not in (None, UNKNOWN)
    holder = block.rpartition(".")[0]
    while holder:
        holder = holder.rpartition(".")[0]
        for name, child in sites.module(holder).named_children():
            full = f"{holder}.{name}" if holder else name
            final = is_norm(child) and not post_norm and "emb" not in name
            if final or name == "pooler":
                yield full
