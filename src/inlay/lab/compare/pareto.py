"""Which of several points no other beats: the Pareto front."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], signs: tuple[int, int]) -> list[int]:
    """Return the positions of the points that no other is at least as good as on both axes and better on one, by the
    first coordinate. A sign of 1 means that more is better, -1 that less is. Of equal points all are kept.
    """

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        better = [sign * (x - y) for sign, x, y in zip(signs, a, b, strict=True)]
        return min(better) >= 0 and max(better) > 0

    unbeaten = [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    return sorted(unbeaten, key=lambda i: points[i])
