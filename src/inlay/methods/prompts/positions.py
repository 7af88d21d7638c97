"""A text whose positions start at P, because a prefix has the first ones: moved where a model looks positions up.

There, and not in the argument `position_ids`, which not every model has, and whose default some take from the padding.
"""

import inspect
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ...core.delta import Args, Delta, Kwargs
from ...errors import SettingsError
from ...models import weights
from ...models.results import Result
from ...models.weights import Host

_LENGTH = "past_key_values_length"


class ShiftedTable(Delta):
    """A delta at an embedding of positions: row p + P is what position p finds."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        weights.shadow(host, {"weight": weights.read(host)["weight"][self.count :]})
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        self.release(host)
        return result

    def release(self, host: Host) -> None:
        weights.unshadow(host, ("weight",))


class ShiftedRotation(Delta):
    """A delta at the module that turns positions into rotations: (x, position_ids) -> (cos, sin)."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": kwargs["position_ids"] + self.count}
        return (args[0], args[1] + self.count, *args[2:]), kwargs


class ShiftedCount(Delta):
    """A delta at the module that computes its own positions: (..., past_key_values_length) -> vectors."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        given = dict(zip(inspect.signature(host.forward).parameters, args, strict=False)) | kwargs
        return (), given | {_LENGTH: given.get(_LENGTH, 0) + self.count}


def shifts(modules: Iterable[tuple[str, nn.Module]], count: int) -> Iterator[tuple[str, Delta]]:
    """Raise SettingsError if a table has no more than `count` positions in all."""
    for name, module in modules:
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in last or last == "wpe"):
            if module.num_embeddings <= count:
                raise SettingsError(f"method.tokens is {count}; {name} has {module.num_embeddings} positions in all")
            yield name, ShiftedTable(count)
        elif "RotaryEmbedding" in type(module).__name__:
            yield name, ShiftedRotation(count)
        elif _LENGTH in inspect.signature(module.forward).parameters and "position" in last:
            yield name, ShiftedCount(count)


def counts_from_the_text(reader: Host, kwargs: Kwargs) -> Tensor | None:
    """Return positions (B, T) that count from each row's first visible token, where the call gives a mask and no
    positions.
    """
    mask_BS = kwargs.get("attention_mask")
    if kwargs.get("position_ids") is not None or not isinstance(mask_BS, Tensor) or mask_BS.ndim != 2:
        return None
    given = next(t for name in ("inputs_embeds", "input_ids") if (t := kwargs.get(name)) is not None)
    lead_B1 = (mask_BS.cumsum(1) == 0).sum(1, keepdim=True)
    place_T = torch.arange(given.shape[1], device=mask_BS.device) + mask_BS.shape[1] - given.shape[1]
    return (place_T - lead_B1).clamp(min=0)
