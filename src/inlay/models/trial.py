"""Running a model once to learn something of it, and leaving it as it was: small inputs, modes, random state."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..devices import accelerators_of
from .heads import input_embeddings, output_embeddings

_TOKENS = 8
Batch = Mapping[str, object] | Sequence[object] | Tensor
"""What a model is called with: arguments by name, in a sequence, or the only one."""
_PLAIN = (Tensor, str, bytes, bool, int, float, type(None))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode, without gradients; modes and random state are afterwards what they were."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(accelerators_of(model.parameters())), torch.no_grad():
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def token_inputs(model: nn.Module, rows: int) -> dict[str, Tensor | bool] | None:
    """Draw random tokens as the arguments of a model that reads such; None if it does not say that it does.

    Tokens that the configuration gives a meaning are left out, but for the last, which ends the text.
    """
    embeddings = input_embeddings(model)
    weight = getattr(embeddings, "weight", None)
    config = getattr(model, "config", None)
    if config is None or getattr(model, "main_input_name", None) != "input_ids" or getattr(weight, "ndim", 0) != 2:
        return None
    assert isinstance(weight, Tensor)
    if weight.is_meta:
        return None
    names = inspect.signature(model.forward).parameters
    size = getattr(embeddings, "num_embeddings", len(weight))
    special = set(_special_tokens(config.to_dict()))
    plain = torch.tensor([i for i in range(min(size, 4096)) if i not in special] or [0])
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return plain[torch.randint(len(plain), (rows, _TOKENS), generator=generator)].to(weight.device)

    ids_BT = draw()
    inputs: dict[str, Tensor | bool] = {"input_ids": ids_BT}
    if getattr(config, "is_encoder_decoder", False):
        if isinstance(end := getattr(config, "eos_token_id", None), int) and end < size:
            ids_BT[:, -1] = end  # some classifiers pool what is there
        if "decoder_input_ids" in names:
            inputs["decoder_input_ids"] = draw()[:, :-1] if output_embeddings(model) is not None else ids_BT
    if "attention_mask" in names:
        inputs["attention_mask"] = torch.ones_like(ids_BT)
    if "use_cache" in names:
        inputs["use_cache"] = False
    return inputs


def call(model: nn.Module, batch: Batch) -> object:
    """Return the model's result for a batch."""
    if _has_names(batch):
        return model(**batch)
    return model(*batch) if isinstance(batch, list | tuple) else model(batch)


def _has_names(batch: Batch) -> TypeGuard[Mapping[str, object]]:
    return hasattr(batch, "keys")


def numbers(result: object) -> list[Tensor]:
    """Return the floating-point tensors of a result, in order; what it keeps for later calls is left out."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, dict):
        result = [value for key, value in result.items() if key != "past_key_values"]
    if isinstance(result, list | tuple):
        return [tensor for value in result for tensor in numbers(value)]
    return []


def is_plain(value: object) -> bool:
    """Tell whether a call cannot change the value."""
    return isinstance(value, _PLAIN) or (isinstance(value, list | tuple) and all(map(is_plain, value)))


def _special_tokens(config: dict[str, object]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _special_tokens(value)
        elif "token" in str(key) and ("id" in str(key) or "index" in str(key)):
            yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
