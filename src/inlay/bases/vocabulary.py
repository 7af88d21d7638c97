"""Tokens for which a model has no row in its embedding: added to the tokenizer, while the model was never resized.

A special token without a row that no text uses does no harm, and some models come with one: a picture's, in a model
that reads texts alone. Rows without a token, to which an embedding is padded, never matter.
"""

from collections.abc import Iterable, Sequence

import torch
import transformers
from torch import Tensor, nn

from ..errors import SettingsError
from ..models.heads import input_embeddings
from ..models.tokenizer import Tokenizer


def check_vocabulary(tokenizer: Tokenizer, model: nn.Module) -> None:
    """Raise SettingsError if the tokenizer has words, or its padding, that `model` (empty or not) cannot read."""
    rows = _rows(model)
    added = {id: token for id, token in tokenizer.added_tokens_decoder.items() if id >= rows and not token.special}
    if tokenizer.vocab_size > rows:
        raise SettingsError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the embedding of {type(model).__name__} {rows} rows, "
            "so it is another model's tokenizer; put the right one beside the model"
        )
    if added:
        raise SettingsError(_without_row(str(next(iter(added.values()))), min(added), rows))
    if tokenizer.pad_token_id >= rows:
        raise SettingsError(_without_row(str(tokenizer.pad_token), tokenizer.pad_token_id, rows))
    _check_types(tokenizer, getattr(getattr(model, "config", None), "type_vocab_size", None))


def _check_types(tokenizer: Tokenizer, types: object) -> None:
    """Raise SettingsError if the tokenizer numbers the parts of a text, or of a pair, as the model (of BERT's kind,
    with rows for so many types) cannot read.
    """
    if not isinstance(types, int) or types < 1:  # it reads no types
        return
    for texts, most in ((("a text",), types), (("a text", "a second one"), max(types, 2))):
        highest = max(tokenizer(*texts).get("token_type_ids") or (0,))
        if highest >= most:
            raise SettingsError(
                f"the tokenizer gives a part of a text the type {highest}, and the model has rows for {types} types; "
                "put the tokenizer's files beside the model, as they were"
            )


def check_ids(tokenizer: Tokenizer, model: nn.Module, texts: Iterable[Sequence[int]]) -> None:
    """Raise SettingsError if one of the texts has a token that `model` cannot read."""
    highest, rows = max((max(ids, default=0) for ids in texts), default=0), _rows(model)
    if highest >= rows:
        raise SettingsError(_without_row(tokenizer.convert_ids_to_tokens(highest), highest, rows))


def empty_body(config: transformers.PreTrainedConfig) -> nn.Module | None:
    """Return the model without values, head and task, for the checks above; None if transformers cannot make it."""
    try:
        with torch.device("meta"):
            return transformers.AutoModel.from_config(config)
    except (ValueError, ImportError):
        return None


def _rows(model: nn.Module) -> int:
    weight = getattr(input_embeddings(model), "weight", None)
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def _without_row(token: str, number: int, rows: int) -> str:
    return (
        f"the tokenizer gives {token} the number {number}, and the embedding has rows for 0 to {rows - 1}; "
        "resize the model to its tokenizer (model.resize_token_embeddings(len(tokenizer)), then save both), or remove "
        "the token from the tokenizer"
    )
