"""The labels of rows: one integer or one text each, and one kind in all of the data."""

import re
from typing import Any

from .problems import Problems, shown
from .rows import Row

Label = int | str

_INTEGER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")


def read_labels(splits: dict[str, list[Row]], column: str, problems: Problems) -> dict[str, list[Label | None]]:
    """The label of each row, all of one type; None where a row has none that can be used, which is a problem.

    Text is taken for an integer where every label of a split spells one: a CSV file has nothing but text.
    """
    labels = {split: _spelled_out([_label(row, column, problems) for row in rows]) for split, rows in splits.items()}
    kind = next((type(label) for split in labels.values() for label in split if label is not None), None)
    for split, rows in splits.items():
        for i, label in enumerate(labels[split]):
            if label is not None and type(label) is not kind:
                first, this = ("an integer", "a text") if kind is int else ("a text", "an integer")
                message = f"the label {shown(label)} is {this}, the first row's is {first}; use one kind for all"
                problems.add("mixed labels", rows[i].place, message)
                labels[split][i] = None
    return labels


def label_names(labels: list[Label | None]) -> dict[Label, str]:
    """Each different label with its name, in the order of the ids: numerical or alphabetical."""
    known = {label for label in labels if label is not None}
    integers = sorted(label for label in known if isinstance(label, int))
    texts = sorted(label for label in known if isinstance(label, str))
    return {label: str(label) for label in (*integers, *texts)}


def _label(row: Row, column: str, problems: Problems) -> Label | None:
    value: Any = row.values[column]
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN is a null of pandas
        problems.add("no label", row.place, f"{column} is empty; every row needs a label")
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    problems.add("label", row.place, f"{column} is {shown(value)}; a label is one integer or one text")
    return None


def _spelled_out(labels: list[Label | None]) -> list[Label | None]:
    matches = [_INTEGER.fullmatch(label) if isinstance(label, str) else None for label in labels]
    if any(label is not None and match is None for label, match in zip(labels, matches, strict=True)):
        return labels
    return [None if match is None else int(match[1]) for match in matches]
