"""Numbers of layers as a map: blocks down, the layers of each across, the larger the stronger the colour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """A number of the map."""

    text: str
    heat: float
    """How strongly to colour it, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """What the macro `heat_map` of page.html.j2 draws."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[HeatCell | None]]
    """None where a block has no such layer."""
    groups: Sequence[tuple[str, int]] = ()
    """Names above the columns, each with how many it is above."""


def heat_map(
    numbers: Mapping[tuple[str, str], float],
    text: Callable[[float], str],
    groups: Sequence[tuple[str, int]] = (),
) -> HeatMap:
    """Return the map of numbers by block, such as `model.layers.0`, and layer within it; the block "" is what lies
    outside all.

    A layer outside, such as a pooler, may be far beyond all others, and would leave them without colour: the strongest
    is the largest of the blocks.
    """
    rows = list(dict.fromkeys(row for row, _ in numbers))
    columns = list(dict.fromkeys(column for _, column in numbers))
    inside = [number for (row, _), number in numbers.items() if row]
    most = max(inside, default=0) or max(numbers.values(), default=0) or 1

    def cell(number: float | None) -> HeatCell | None:
        if number is None:
            return None
        return HeatCell(text=text(number), heat=min(1.0, 0.08 + 0.92 * number / most) if number else 0)

    cells = [[cell(numbers.get((row, column))) for column in columns] for row in rows]
    return HeatMap(rows=_short(rows), columns=columns, cells=cells, groups=groups)


def _short(blocks: Sequence[str]) -> list[str]:
    """Name blocks by their numbers, if all are of one stack."""
    stacks = {block.rpartition(".")[0] for block in blocks if block}
    if len(stacks) > 1:
        return [block or "outside" for block in blocks]
    return [block.rpartition(".")[2] or "outside" for block in blocks]
