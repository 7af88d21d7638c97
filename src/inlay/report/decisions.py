"""What a method decided about each layer, such as its rank, as one table: blocks down, their layers across."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    name: str
    """What is in the cells, such as `ranks`."""
    columns: list[str]
    """Layers by their name within a block."""
    rows: list[str]
    """Blocks, by number; with the name of their stack if there are several."""
    cells: list[list[int | None]]
    """None where a block has no such layer."""
    total: int


def layer_tables(decided: dict[str, dict[str, int]]) -> list[LayerTable]:
    """Make a table for each thing that was decided, from the number of each layer by its whole name."""
    return [_table(name, numbers) for name, numbers in decided.items()]


def _table(name: str, numbers: dict[str, int]) -> LayerTable:
    parts = {layer: _split(layer) for layer in numbers}
    stacks = {stack for stack, _, _ in parts.values()}
    columns = list(dict.fromkeys(within for _, _, within in parts.values()))
    cells: dict[str, dict[str, int]] = {}
    for layer, number in numbers.items():
        stack, block, within = parts[layer]
        row = block if len(stacks) == 1 else " ".join(part for part in (stack, block) if part)
        cells.setdefault(row, {})[within] = number
    return LayerTable(
        name=name,
        columns=columns,
        rows=list(cells),
        cells=[[row.get(column) for column in columns] for row in cells.values()],
        total=sum(numbers.values()),
    )


def _split(layer: str) -> tuple[str, str, str]:
    """Return the stack, the block's number in it, and the name within the block; outside all blocks the name alone."""
    names = layer.split(".")
    at = next((i for i, name in enumerate(names) if name.isdecimal()), None)
    if at is None:
        return "", "", layer
    return ".".join(names[:at]), names[at], ".".join(names[at + 1 :])
