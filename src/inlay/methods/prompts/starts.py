"""What a prompt may start from: the padding token, drawn tokens, noise of their spread, a text, the labels' names.

A new head begins with what can be told from the base's features (tasks/linear_head.py). Random words before a text take
most of that away, and the padding token, which means nothing, leaves most of it. A model that writes learns better from
words (docs/learning_rates.md).

Tokens are looked up by calling the embedding, not in its weight: some embeddings scale what they look up.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import SettingsError
from ...formats.read import guarded
from ...models import weights
from ...models.modules import has_config
from ...models.sites import Sites
from ...models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLES = 1000  # tokens whose embeddings tell the spread of all


@torch.no_grad()
def from_vocabulary(embedding: nn.Embedding, count: int) -> Tensor:
    """Take those of distinct tokens. Raises SettingsError if there are fewer than `count`."""
    vocabulary = len(embedding.weight)
    if count > vocabulary:
        raise SettingsError(f"method.tokens is {count}, more than the vocabulary of {vocabulary}")
    return embedding.forward(torch.randperm(vocabulary, device=weights.device(embedding))[:count])


@torch.no_grad()
def from_padding(embedding: nn.Embedding, count: int, padding: int) -> Tensor:
    return embedding.forward(torch.full((count,), padding, device=weights.device(embedding)))


def own_start(sites: Sites, embedding: nn.Embedding, count: int) -> Tensor:
    """Take the padding token's if a new head reads the text and there is one; else those of drawn tokens."""
    padding = padding_before_head(sites, embedding)
    return from_vocabulary(embedding, count) if padding is None else from_padding(embedding, count, padding)


def padding_before_head(sites: Sites, embedding: nn.Embedding) -> int | None:
    """Find the padding token if a new head reads the text; None for a model that writes, or where there is none."""
    return padding_token(sites, embedding) if sites.heads else None


def padding_token(sites: Sites, embedding: nn.Embedding) -> int | None:
    """Find the token that the model's configuration pads with; None if it names none of the vocabulary."""
    if not has_config(sites.model):
        return None
    found = getattr(sites.model.config.get_text_config(), "pad_token_id", None)
    return found if isinstance(found, int) and 0 <= found < len(embedding.weight) else None


@torch.no_grad()
def from_noise(embedding: nn.Embedding, count: int) -> Tensor:
    drawn_VD = from_vocabulary(embedding, min(len(embedding.weight), _SAMPLES)).float()
    return torch.randn(count, drawn_VD.shape[1], device=drawn_VD.device) * drawn_VD.std()


@torch.no_grad()
def from_text(embedding: nn.Embedding, count: int, model: "PreTrainedModel", text: str) -> Tensor:
    """Take those of the text's tokens, from its beginning again where it is shorter. Raises SettingsError if there
    are none."""
    if not (ids := _tokens(_tokenizer(model, "text"), text)):
        raise SettingsError(f"method.text is {text!r}, which has no tokens in the vocabulary")
    ids = (ids * -(-count // len(ids)))[:count]
    return embedding.forward(torch.tensor(ids, device=weights.device(embedding)))


@torch.no_grad()
def from_labels(embedding: nn.Embedding, count: int, model: "PreTrainedModel") -> Tensor:
    """Return the mean of the tokens of each label's name, then tokens drawn from the vocabulary.

    Raises SettingsError if the model's labels have no names, or are more than `count`.
    """
    names = [name for _, name in sorted((model.config.id2label or {}).items())]
    if names == [f"LABEL_{i}" for i in range(len(names))]:
        raise SettingsError("method.initialization is labels, but the model's labels have no names (config.id2label)")
    if len(names) > count:
        raise SettingsError(f"method.tokens is {count}, fewer than the {len(names)} labels to start from")
    tokenizer = _tokenizer(model, "labels")
    device, rows = weights.device(embedding), []
    for name in names:
        if not (ids := _tokens(tokenizer, name)):
            raise SettingsError(f"method.initialization is labels, but label {name!r} has no tokens in the vocabulary")
        rows.append(embedding.forward(torch.tensor(ids, device=device)).float().mean(dim=0))
    return torch.cat([torch.stack(rows), from_vocabulary(embedding, count - len(rows)).float()])


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenize a text; empty if all of it is unknown, as to the tokenizer that transformers makes where there is no
    file."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [] if all(i == tokenizer.unk_token_id for i in ids) else ids


def _tokenizer(model: "PreTrainedModel", initialization: str) -> Tokenizer:
    """Read the tokenizer beside the model's weights. Raises SettingsError if the model does not say where that is."""
    from transformers import AutoTokenizer

    name = model.config.name_or_path
    asked = f"method.initialization is {initialization}, which needs the model's tokenizer"
    if not name:
        raise SettingsError(f"{asked}; set model.config.name_or_path to the folder or hub id that has it")
    todo = "put the tokenizer's files beside the model's weights"
    with guarded(f"{asked}: model {name!r}", "a tokenizer", todo=todo, error=SettingsError):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
