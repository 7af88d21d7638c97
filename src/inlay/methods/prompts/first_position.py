"""Which positions a classifier's head reads: some read the first one, where Hugging Face PEFT has a prompt's vector.

The head is run alone: the transformer's place is taken by three random positions, and gradients tell what was read.

Shape suffixes: T positions, D width.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...attached.adapter import adapters
from ...core.active import using
from ...errors import TargetError
from ...models.listed_classes import classes_for
from ...models.modules import has_config
from ...models.sites import Sites
from .readers import embedding_of, mask_reader, readers_of

_COUNT = 3

FirstPosition = Literal["text", "prompt"]


@dataclass(frozen=True)
class Read:
    """What a head reads of what the transformer hands on."""

    first: bool
    others: bool


class _Result(tuple[Tensor, Tensor]):
    """What any transformer's result looks like: hidden states and what is pooled of them, and nothing else."""

    def __getattr__(self, name: str) -> Tensor | None:
        return {"last_hidden_state": self[0], "pooler_output": self[1]}.get(name)


def read_by_head(sites: Sites) -> Read:
    """Find out by gradients what the head reads: nothing of a model that is no classifier of texts, has no values, or
    whose head reads what the transformer pools."""
    model = sites.model
    if type(model).__name__ not in classes_for("SEQUENCE_CLASSIFICATION"):
        return Read(False, False)
    reader, decoder = readers_of(sites)
    assert has_config(model)
    transformer = mask_reader(sites, reader)
    embeddings = embedding_of(transformer).weight
    if decoder is not None or embeddings.is_meta:
        return Read(False, False)
    generator = torch.Generator().manual_seed(0)  # of its own: saving an adapter draws nothing from a run's
    h_1TD = torch.randn(1, _COUNT, model.config.hidden_size, generator=generator)
    h_1TD = h_1TD.to(embeddings.device, embeddings.dtype).requires_grad_()
    pooled_1D = torch.zeros_like(h_1TD[:, 0])
    padding = getattr(model.config, "pad_token_id", None)
    ids_1T = torch.full((1, _COUNT), next(i for i in range(2) if i != padding), device=embeddings.device)
    training = [m for m in model.modules() if m.training]
    own = transformer.__dict__.get("forward")
    transformer.__dict__["forward"] = lambda *_, **__: _Result((h_1TD, pooled_1D))
    try:
        model.eval()
        with using(model) if adapters(model) else nullcontext(), torch.enable_grad():
            y = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T)).logits.float().square().sum()
        gradient = torch.autograd.grad(y, h_1TD, allow_unused=True)[0] if y.requires_grad else None
    finally:
        if own is None:
            del transformer.__dict__["forward"]
        else:
            transformer.__dict__["forward"] = own
        for m in training:
            m.training = True
    read_T = [False] * _COUNT if gradient is None else (gradient[0] != 0).any(-1).tolist()
    return Read(read_T[0], any(read_T[1:]))


def hands_on_its_first(sites: Sites, asked: FirstPosition) -> bool:
    """Tell whether the prompt's first position is to stand where the head reads the text's.

    Raises TargetError if the head reads other positions with it, of which the prompt's would be some.
    """
    if asked == "text":
        return False
    read = read_by_head(sites)
    if read.first and read.others:
        raise TargetError(
            f"method.first_position is prompt, but the head of {type(sites.model).__name__} reads all positions, not "
            "the first alone"
        )
    return read.first
