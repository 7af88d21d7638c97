"""score_parts.json in a run's folder: each row's part of the score, by which runs are compared row by row."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..formats.files import as_json, write_text
from ..stats import Means, Parts, Shares

SCORE_PARTS = "score_parts.json"


def write_parts(folder: Path, parts: Mapping[str, Parts]) -> None:
    """Write the parts of each split."""
    write_text(folder / SCORE_PARTS, as_json({split: each.as_dict() for split, each in parts.items()}) + "\n")


def read_parts(folder: Path, split: str) -> Parts | None:
    """Return a split's parts; None if they are not there."""
    if not (folder / SCORE_PARTS).is_file():
        return None
    values = json.loads((folder / SCORE_PARTS).read_text(encoding="utf-8")).get(split)
    return values and (Shares.from_dict(values) if "right" in values else Means.from_dict(values))
