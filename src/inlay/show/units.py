"""Numbers as people read them: bytes, counts, seconds and shares."""

import math
from collections.abc import Callable
from typing import Any

UNKNOWN = "–"


def bytes_text(count: float) -> str:
    """`86.7 MiB`; three digits of the largest unit that leaves at least one before the point."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_text(count: float) -> str:
    """`1.23 M`; B is 10⁹, as in the names of models."""
    return _scaled(count, 1000, ("", "k", "M", "B", "T"))


def counted(count: float, noun: str) -> str:
    """`1 epoch`, `0.5 epochs`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def seconds_text(seconds: float) -> str:
    """`83 s` becomes `1 min 23 s`; the two largest units, or one below a minute."""
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
    """`1.2 %` for 0.0123; two significant digits below one percent."""
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if abs(percent) >= 0.995 else f"{percent:.2g} %"


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    unit, *larger = units
    while larger and round(value) >= step:
        value /= step
        unit, *larger = larger
    digits = 0 if unit == units[0] or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def text_or_unknown(text: Callable[[Any], str], value: float | None) -> str:
    """The value as `text` writes it; a dash where there is none, as for NaN in a file."""
    if value is None:
        return UNKNOWN
    return text(value) if math.isfinite(value) else "not finite"
