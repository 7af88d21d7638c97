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
from ...errors import AdapterStateError
from ...models.sites import Sites
from ...models.weights import Host
from . import entrance, ids_positions
from .cached import cached_positions, is_first_call
from .first_position import FirstPosition, hands_on_its_first
from .per_token import per_token_arguments, positions_of_ids
from .placement import Placement
from .readers import embedding_of, mask_reader, readers_of


class SoftPrompt(Delta):
    """`prompt` says what the vectors are. With `keep` their positions stay in the result, for a decoder to see."""

    def __init__(self, count: int, keep: bool):
        super().__init__()
        self.count, self.keep = count, keep
        self.hands_on_its_first = False  # in place of the text's first position; see first_position.py

    def prompt(self) -> Tensor:
        """Return the (P, D) vectors, or (B, P, D) if they differ between the rows of a batch."""
        raise NotImplementedError

    def install(self, host: Host) -> None:
        self.argument_names = tuple(inspect.signature(host.forward).parameters)
        self.counters = ids_positions.counters(host)
        entrance.open_for(host, self)

    def uninstall(self, host: Host) -> None:
        entrance.close_for(host, self)

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        kwargs = dict(zip(self.argument_names, args, strict=False)) | kwargs
        first = is_first_call(kwargs)  # later decoding steps find the prompt in the cache
        mask_BS = kwargs.get("attention_mask")
        place = Placement.before_text(mask_BS, self.count, None if first else cached_positions(kwargs))
        if mask_BS is not None:
            kwargs["attention_mask"] = place.join(mask_BS.new_ones(1, self.count), mask_BS)
        if first:
            kwargs |= self._joined(host, kwargs, place)
        else:
            for key in _POSITIONS:
                if (positions := kwargs.get(key)) is not None:
                    kwargs[key] = positions + self.count
        return (), kwargs | entrance.entered(kwargs, self, place if first else None)

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Any) -> Any:
        self.release(host)
        place, given = entrance.left_with(kwargs, self)
        if self.keep or place is None:
            return result
        if (got := result[0].shape[1]) != given:
            raise AdapterStateError(
                f"{type(host).__name__} gives {got} positions for {given}, so that the text's cannot be told from a "
                "soft prompt's; prefix and the methods that change weights need no positions of their own"
            )
        text_BTD = place.text_of(result[0])
        if self.hands_on_its_first:
            text_BTD = torch.cat([place.first_of(result[0]), text_BTD[:, 1:]], dim=1)
        if isinstance(result, tuple):
            return (text_BTD, *result[1:])
        result.last_hidden_state = text_BTD
        if getattr(result, "hidden_states", None) is not None:
            result.hidden_states = tuple(map(place.text_of, result.hidden_states))
        return result

    def release(self, host: Host) -> None:
        if self.counters:
            ids_positions.forget()

    def _joined(self, host: Any, kwargs: Kwargs, place: Placement) -> Kwargs:
        """Return the arguments of a call that reads the prompt: what there is of each token has the prompt's part in
        it.
        """
        ids_BT, x_BTD = kwargs.pop("input_ids", None), kwargs.pop("inputs_embeds", None)
        if self.counters:
            ids_positions.remember(self.counters, ids_BT, place)
        x_BTD = host.get_input_embeddings()(ids_BT) if x_BTD is None else x_BTD
        prompt = self.prompt().expand(len(x_BTD), -1, -1)
        joined: Kwargs = {"inputs_embeds": place.join(prompt, x_BTD)}
        for key, tensor in per_token_arguments(host, ids_BT, x_BTD.shape[:2], kwargs).items():
            joined[key] = place.join(tensor.new_zeros(1, self.count, *tensor.shape[2:]), tensor)
        if kwargs.get("position_ids") is None and (positions := positions_of_ids(host, ids_BT)) is not None:
            kwargs["position_ids"] = positions
        for key in _POSITIONS:
            if (positions := kwargs.get(key)) is not None:
                joined[key] = place.join_positions(positions)
        return joined


class LearnedPrompt(SoftPrompt):
    """The vectors are the parameters."""

    def __init__(self, prompt_PD: Tensor, keep: bool):
        super().__init__(len(prompt_PD), keep)
        self.prompt_embeddings = nn.Parameter(prompt_PD.detach().float().clone())

    def prompt(self) -> Tensor:
        return self.prompt_embeddings


class PromptInCrossAttention(Delta):
    """A delta at a decoder: its view of the encoder's positions grows by the prompt."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if (mask_BT := kwargs.get("encoder_attention_mask")) is not None:
            place = Placement.before_text(mask_BT, self.count, None)
            kwargs = kwargs | {"encoder_attention_mask": place.join(mask_BT.new_ones(1, self.count), mask_BT)}
        return args, kwargs


def at_transformer(
    sites: Sites, make: Callable[[nn.Embedding, bool], SoftPrompt], first: FirstPosition
) -> Iterator[tuple[str, Delta]]:
    """Yield the prompt that `make` gives for (token embeddings, keep) in its place, and what a decoder must know of
    it.
    """
    reader, decoder = readers_of(sites)
    transformer = reader if decoder is not None else mask_reader(sites, reader)
    names = {id(module): name for name, module in sites.modules()}
    prompt = make(embedding_of(transformer), decoder is not None)
    prompt.hands_on_its_first = hands_on_its_first(sites, first)
    yield names[id(transformer)], prompt
    for counter in ids_positions.counters(transformer):
        yield names[id(counter)], ids_positions.PositionsOfIds()
    if decoder is not None:
        yield names[id(decoder)], PromptInCrossAttention(prompt.count)


_POSITIONS = ("position_ids", "cache_position")
