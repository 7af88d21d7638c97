"""A text whose positions start at P, because a prefix has the first ones: moved where a model looks positions up.

There, and not in the argument `position_ids`, which not every model has, and whose default some take from the padding.
"""

from collections.abc import Iterable, Iterator

from torch import nn

from ...core import weights
from ...core.delta import Args, Delta, Kwargs
from ...core.weights import Host
from ...errors import SettingsError


class ShiftedTable(Delta):
    """At an embedding of positions: row p + P is what position p finds."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        weights.shadow(host, {"weight": weights.read(host)["weight"][self.count :]})
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: object) -> object:
        self.release(host)
        return result

    def release(self, host: Host) -> None:
        weights.unshadow(host, ("weight",))


class ShiftedRotation(Delta):
    """At the module that turns positions into rotations: (x, position_ids) -> (cos, sin)."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": kwargs["position_ids"] + self.count}
        return (args[0], args[1] + self.count, *args[2:]), kwargs


def shifts(modules: Iterable[tuple[str, nn.Module]], count: int) -> Iterator[tuple[str, Delta]]:
    """Raises SettingsError if a table has no more than `count` positions in all."""
    for name, module in modules:
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in last or last == "wpe"):
            if module.num_embeddings <= count:
                raise SettingsError(f"method.tokens is {count}; {name} has {module.num_embeddings} positions in all")
            yield name, ShiftedTable(count)
        elif "RotaryEmbedding" in type(module).__name__:
            yield name, ShiftedRotation(count)
