"""A budget of parameters shared out among directions: those that give most for what they cost, in whichever layers."""

from collections.abc import Mapping, Sequence


def share_out(
    gains: Mapping[str, Sequence[float]], costs: Mapping[str, int], budget: int, at_least: int = 0
) -> dict[str, int]:
    """Return how many of each layer's directions are taken, never for more than `budget` in all.

    `gains` has the worth of each layer's directions, the largest first; one more direction costs a layer `costs`. Every
    layer gets `at_least` so many first, as far as it has them, whatever that costs. Then comes the direction with the
    largest gain for its cost (of equal ones that of the layer with fewer), as long as it fits: a layer whose next one
    does not fit gets no more.
    """
    taken = {layer: min(at_least, len(values)) for layer, values in gains.items()}
    left = budget - sum(taken[layer] * costs[layer] for layer in gains)
    others = [
        (-gain / costs[layer], number, layer)
        for layer, values in gains.items()
        for number, gain in enumerate(values)
        if number >= taken[layer]
    ]
    for _, number, layer in sorted(others, key=lambda entry: entry[:2]):
        if number == taken[layer] and costs[layer] <= left:
            taken[layer] += 1
            left -= costs[layer]
    return taken
