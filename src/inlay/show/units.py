"""Numbers as people read them: bytes, counts, seconds and shares; alone, as differences, and along an axis."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

NumberT = TypeVar("NumberT", bound=float)

UNKNOWN = "–"


def bytes_text(count: float) -> str:
    """Write `86.7 MiB`: three digits of the largest unit that leaves at least one before the point."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_text(count: float) -> str:
    """Write `1.23 M`; B is 10⁹, as in the names of models."""
    return _scaled(count, 1000, ("", "k", "M", "B", "T"))


def counted(count: float, noun: str) -> str:
    """Write `1 epoch`, `0.5 epochs`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def seconds_text(seconds: float) -> str:
    """Write `1 min 23 s` for 83: the two largest units, or one below a minute."""
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if round(seconds / 60) < 24 * 60:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return "{} d {} h".format(*divmod(round(seconds / 3600), 24))


def percent_text(share: float) -> str:
    """Write `1.2 %` for 0.0123; two significant digits below one percent."""
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if abs(percent) >= 0.995 else f"{percent:.2g} %"


def shares_text(interval: tuple[float, float]) -> str:
    """Write `80.6 to 100`, the percentages that an interval of shares goes from and to."""
    return " to ".join(percent_text(round(share, 9)).removesuffix(" %") for share in interval)


def signed(value: float, digits: int) -> str:
    """Write `+0.25` and `−0.25`, with the sign that is as wide as the plus; what rounds to zero has a plus."""
    rounded = round(value, digits) + 0.0  # a negative zero becomes a positive one
    return f"{rounded:+.{digits}f}".replace("-", "−")


def points_text(share: float, digits: int = 1) -> str:
    """Write `+79.4` for 0.794, the difference of two percentages."""
    return signed(100 * share, digits)


def excess_text(planned: float | None, actual: float | None) -> str:
    """Write `+5 %` where the actual figure is that much above the planned one."""
    return UNKNOWN if not planned or actual is None else f"{signed(100 * (actual / planned - 1), 0)} %"


def text_or_unknown(text: Callable[[NumberT], str], value: NumberT | None) -> str:
    """Write the value by `text`; a dash for None, words for what is not finite."""
    if value is None:
        return UNKNOWN
    return text(value) if math.isfinite(value) else "not finite"


@dataclass(frozen=True)
class Unit:
    """What a quantity is measured in: how its values are written, and an axis of them is marked."""

    text: Callable[[float], str]
    sizes: tuple[tuple[float, str], ...] = ((1, ""),)
    """What is named along an axis, the smallest first."""
    is_share: bool = False
    """Whether values differ by points."""

    def difference(self, value: float) -> str:
        """Write how far two values are apart: `1.2 points` for shares."""
        return f"{100 * value:.1f} points" if self.is_share else f"{value:.3f}"

    def change(self, value: float, digits: int = 4) -> str:
        """Write a difference with its sign, and without `points`."""
        return points_text(value) if self.is_share else signed(value, digits)


def number(digits: int) -> Unit:
    """Return the unit of plain numbers with so many decimals."""
    return Unit(lambda value: f"{value:.{digits}f}".replace("-", "−"))


PERCENT = Unit(percent_text, ((0.01, "%"),), is_share=True)
COUNT = Unit(count_text, ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B")))
BYTES = Unit(bytes_text, ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB")))
SECONDS = Unit(seconds_text, ((1, "s"), (60, "min"), (3600, "h")))
RATE = Unit("{:,.0f}".format, COUNT.sizes)


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    unit, *larger = units
    while larger and round(value) >= step:
        value /= step
        unit, *larger = larger
    digits = 0 if unit == units[0] or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}".rstrip()
