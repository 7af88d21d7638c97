"""score_parts.json in a run's folder: each row's part of the score, by which runs are compared row by row."""

from collections.abc import Mapping
from pathlib import Path

from ..formats.files import as_json, write_text
from ..formats.read import guarded, read_object
from ..stats import Means, Parts, Shares

SCORE_PARTS = "score_parts.json"


def write_parts(folder: Path, parts: Mapping[str, Parts]) -> None:
    """Write the parts of each split."""
    write_text(folder / SCORE_PARTS, as_json({split: each.as_dict() for split, each in parts.items()}) + "\n")


def read_parts(folder: Path, split: str) -> Parts | None:
    """Return a split's parts; None if they are not there. Raises CheckpointError if they are damaged."""
    path, what = folder / SCORE_PARTS, "the parts of a run's scores"
    if not path.is_file():
        return None
    values = read_object(path, what).get(split)
    with guarded(path, what):
        return values and (Shares.from_dict(values) if "right" in values else Means.from_dict(values))
