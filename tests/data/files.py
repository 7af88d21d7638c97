"""Small data files for tests, and labelled rows to put into them."""

import gzip
import json
from pathlib import Path
from typing import Any

from inlay.data.problems import Problems
from inlay.data.rows import Row
from inlay.data.source import open_source


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> str:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def open_splits(path: str) -> dict[str, list[Row]]:
    """The rows of each split. Raises DataError if any cannot be read."""
    problems = Problems()
    source = open_source(path, problems)
    problems.raise_errors()
    return source.splits


def labelled(count: int, labels: tuple[Any, ...] = ("no", "yes")) -> list[dict[str, Any]]:
    """Rows with different texts whose labels take turns."""
    return [{"text": f"text number {i}", "label": labels[i % len(labels)]} for i in range(count)]
