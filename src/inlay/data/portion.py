"""A part of the data, to try something on before all of it is used."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from .problems import Problems
from .settings import DataSettings

RowT = TypeVar("RowT")


def portion(
    splits: Mapping[str, Sequence[RowT]], names: Mapping[str, str], settings: DataSettings, problems: Problems
) -> dict[str, list[RowT]]:
    """Take of every split as many rows as the settings allow, evenly spread over it, so that data in some order keep
    their mixture; which ones depends on nothing else. A warning says what is left out, a note that it is nothing.
    `names` are the files of the splits.
    """
    parts: dict[str, list[RowT]] = {}
    for split, rows in splits.items():
        setting = "train_rows" if split == "train" else "eval_rows"
        most: int | None = getattr(settings, setting)
        kept = len(rows) if most is None else min(most, len(rows))
        parts[split] = [rows[i * len(rows) // kept] for i in range(kept)]
        if most is not None and most > len(rows):
            message = f"{split} has {len(rows):,} rows, all of which are used: data.{setting} {most:,} leaves none out"
            problems.add(("portion", split), names.get(split, names["train"]), message, severity="note")
        if kept < len(rows):
            message = f"{kept:,} of the {len(rows):,} rows of {split} are used, evenly spread (data.{setting})"
            problems.add(("portion", split), names.get(split, names["train"]), message, severity="warning")
    return parts
