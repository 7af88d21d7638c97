"""What a prefix starts from: the keys and values that the base computes of random tokens, or of padding.

It is padding where a new head reads the text; starts.py says why.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ...attached.adapter import adapters
from ...core.active import using
from ...errors import TargetError
from ...models import weights
from ...models.sites import Sites
from .attention import recorded
from .readers import embedding_of, readers_of
from .starts import from_padding, padding_before_head


@torch.no_grad()
def prefix_start(sites: Sites, hosts: list[nn.Module], count: int) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Return keys and values (H, P, C), in float32, that the base computes of tokens that it is given, by attention
    module."""
    reader, decoder = readers_of(sites)

    def run() -> None:
        with using(sites.model) if adapters(sites.model) else nullcontext():
            read_BTD = reader(inputs_embeds=_embeddings(sites, reader, count))[0]
            if decoder is not None:
                decoder(inputs_embeds=_embeddings(sites, decoder, count), encoder_hidden_states=read_BTD)

    training = [m for m in sites.model.modules() if m.training]
    sites.model.eval()  # no dropout, no checkpointing
    try:
        kept = recorded(hosts, run)
    finally:
        for m in training:
            m.training = True
    found = {host: (key[0].float(), value[0].float()) for host, (key, value) in kept.items()}
    if len(shapes := {tuple(t.shape) for pair in found.values() for t in pair}) > 1:
        raise TargetError(f"the keys and values of {type(sites.model).__name__} differ in shape: {sorted(shapes)}")
    return found


def _embeddings(sites: Sites, transformer: nn.Module, count: int) -> Tensor:
    embedding = embedding_of(transformer)
    if (padding := padding_before_head(sites, embedding)) is not None:
        return from_padding(embedding, count, padding)[None]
    return embedding(torch.randint(len(embedding.weight), (1, count), device=weights.device(embedding)))
