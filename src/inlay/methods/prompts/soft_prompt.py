"""What every soft prompt does to a model's call: P learned vectors come before the token embeddings.

The delta sits at the pretrained transformer inside the model, not at the model with its head: the head, the loss and
the pooling of a classifier see the text's own positions and labels, and none of the head's work is spent on the prompt.
In an encoder-decoder the prompt comes before the encoder's input, and the decoder's cross-attention sees it.

Shape suffixes: B batch, P prompt, T text, D width.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...core.delta import Args, Delta, Kwargs
from ...core.sites import Sites
from ...core.weights import Host
from ...errors import AdapterStateError
from .virtual_tokens import transformers_of


class SoftPrompt(Delta):
    """`prompt` says what the vectors are. With `keep` their positions stay in the result, for a decoder to see."""

    def __init__(self, count: int, keep: bool):
        super().__init__()
        self.count, self.keep = count, keep

    def prompt(self) -> Tensor:
        """The (P, D) vectors, or (B, P, D) if they differ between the rows of a batch."""
        raise NotImplementedError

    def install(self, host: Host) -> None:
        self.argument_names = tuple(inspect.signature(host.forward).parameters)

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        kwargs = dict(zip(self.argument_names, args, strict=False)) | kwargs
        count = self.count
        ids_BT = kwargs.pop("input_ids", None)
        x_BTD = kwargs.pop("inputs_embeds", None)
        x_BTD = host.get_input_embeddings()(ids_BT) if x_BTD is None else x_BTD
        first_call = _cached(kwargs) == 0  # later decoding steps find the prompt in the cache
        if first_call:
            x_BTD = torch.cat([self.prompt().to(x_BTD.dtype).expand(len(x_BTD), -1, -1), x_BTD], dim=1)
        kwargs["inputs_embeds"] = x_BTD

        if (mask := kwargs.get("attention_mask")) is not None:
            kwargs["attention_mask"] = widen_mask(mask, count)
        if (types_BT := kwargs.get("token_type_ids")) is not None and first_call:
            kwargs["token_type_ids"] = torch.cat([types_BT.new_zeros(len(types_BT), count), types_BT], dim=1)
        for key in ("position_ids", "cache_position"):
            if (positions := kwargs.get(key)) is not None:
                kwargs[key] = _shift(positions, count, first_call)
        return (), kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        new = kwargs["inputs_embeds"].shape[1]
        if self.keep or (kwargs.get("past_key_values") is not None and _cached(kwargs) != new):
            return result
        count = self.count
        if isinstance(result, tuple):
            return (result[0][:, count:], *result[1:])
        result.last_hidden_state = result.last_hidden_state[:, count:]
        if getattr(result, "hidden_states", None) is not None:
            result.hidden_states = tuple(h_BTD[:, count:] for h_BTD in result.hidden_states)
        return result


class LearnedPrompt(SoftPrompt):
    """The vectors are the parameters."""

    def __init__(self, prompt_PD: Tensor, keep: bool):
        super().__init__(len(prompt_PD), keep)
        self.prompt_embeddings = nn.Parameter(prompt_PD.detach().float().clone())

    def prompt(self) -> Tensor:
        return self.prompt_embeddings


class PromptInCrossAttention(Delta):
    """At a decoder: its view of the encoder's positions grows by the prompt."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if (mask_BT := kwargs.get("encoder_attention_mask")) is not None:
            kwargs = kwargs | {"encoder_attention_mask": widen_mask(mask_BT, self.count)}
        return args, kwargs


def at_transformer(sites: Sites, make: Callable[[Any, bool], SoftPrompt]) -> Iterator[tuple[str, Delta]]:
    """The prompt that `make` gives for (token embeddings, keep) in its place, and what a decoder must know of it."""
    transformer, decoder = transformers_of(sites)
    names = {id(module): name for name, module in sites.modules()}
    prompt = make(transformer.get_input_embeddings(), decoder is not None)
    yield names[id(transformer)], prompt
    if decoder is not None:
        yield names[id(decoder)], PromptInCrossAttention(prompt.count)


def widen_mask(mask_BT: Tensor, count: int) -> Tensor:
    """The mask with `count` visible positions before the text's. Raises AdapterStateError unless it is (B, T)."""
    if not isinstance(mask_BT, Tensor) or mask_BT.ndim != 2:
        raise AdapterStateError("a soft prompt needs an attention mask of shape (batch, tokens)")
    return torch.cat([mask_BT.new_ones(len(mask_BT), count), mask_BT], dim=1)


def _cached(kwargs: Kwargs) -> int:
    cache = kwargs.get("past_key_values")
    return 0 if cache is None else cache.get_seq_length()


def _shift(positions: Tensor, count: int, first_call: bool) -> Tensor:
    """The text's positions moved past the prompt's; else a left-padded row would differ from an unpadded one."""
    moved = positions + count
    if not first_call:
        return moved
    prompt = torch.arange(count, device=positions.device, dtype=positions.dtype)
    return torch.cat([prompt.expand(*positions.shape[:-1], count), moved], dim=-1)
