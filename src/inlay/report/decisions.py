"""What a method decided about each layer, such as its rank."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..show.heat_map import HeatMap, heat_map


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A number that a method chose for each layer."""

    name: str
    """What the numbers are, such as `ranks`."""
    layers: int
    total: int
    map: HeatMap


def decisions(decided: Mapping[str, Mapping[str, int]]) -> list[Decision]:
    """Return what was decided, from the number of each layer by its whole name."""
    return [
        Decision(
            name=name,
            layers=len(numbers),
            total=sum(numbers.values()),
            map=heat_map({_place(layer): number for layer, number in numbers.items()}, str),
        )
        for name, numbers in decided.items()
    ]


def _place(layer: str) -> tuple[str, str]:
    """Split a layer's name after its block's number; one outside all blocks has its name alone."""
    names = layer.split(".")
    at = next((i for i, name in enumerate(names) if name.isdecimal()), -1)
    return ".".join(names[: at + 1]), ".".join(names[at + 1 :])
