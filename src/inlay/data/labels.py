"""The labels of rows: one integer, one boolean or one text each, and one kind in all of the data."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ..show.units import counted
from .alike_labels import meant_label
from .problems import Problems, listed, shown
from .rows import Row

Label = int | str
Given = bool | int | float | str
"""A label as its row has it."""

MOST_CLASSES = 20
"""Different numbers that are surely classes; of more it depends on how many rows there are."""
_UNKNOWN_TOLD = 5
NO_REGRESSION = "real numbers, which are not learned as numbers (no regression): group them into classes"
_INTEGER = re.compile(r"(-?(?:0|[1-9][0-9]{0,3999}))(?:\.0+)?")  # Python reads no integers of more than 4,300 digits
_NUMBER = re.compile(r"[-+]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?")
_KINDS = {bool: "a boolean", int: "an integer", float: "an integer", str: "a text"}


def read_labels(splits: dict[str, list[Row]], column: str, problems: Problems) -> dict[str, list[Label | None]]:
    """Return the label of each row, all of one kind; None where a row has none that can be used, which is a problem.

    Text is taken for an integer where every label of a split spells one: a CSV file has nothing but text. A boolean is
    named as JSON names it.
    """
    given = {split: _spelled_out([_given(row, column, problems) for row in rows]) for split, rows in splits.items()}
    kind = next((_KINDS[type(value)] for split in given.values() for value in split if value is not None), None)
    for split, rows in splits.items():
        for i, value in enumerate(given[split]):
            if value is not None and _KINDS[type(value)] != kind:
                message = f"the label {shown(value)} is {_KINDS[type(value)]}, the first row's is {kind}"
                problems.fault("mixed labels", rows[i].place, f"{message}; use one kind for all")
                given[split][i] = None
    _tell_of_numbers(splits, given, column, problems)
    return {split: [None if value is None else _label(value) for value in values] for split, values in given.items()}


def read_known_labels(
    rows: Sequence[Row], column: str, known: Sequence[str], unnamed: bool, problems: Problems
) -> list[int | None]:
    """Return the place of each row's label among the names that were learned; None and a problem if it is none of them.

    `unnamed` says that these are LABEL_0 and so on, in whose place a row may have a number.
    """
    ids = {name: i for i, name in enumerate(known)}
    found: list[int | None] = []
    unknown: list[tuple[Row, Given]] = []
    for row in rows:
        value = _given(row, column, problems)
        names = () if value is None else _names(value)
        id = next((ids[name] for name in names if name in ids), None)
        if id is None and unnamed:
            id = next((int(name) for name in names if name in map(str, range(len(known)))), None)
        if id is None and value is not None:
            unknown.append((row, value))
        found.append(id)
    message = _unknown(Counter(str(_label(value)) for _, value in unknown), known, unnamed)
    for row, _ in unknown:
        problems.fault(("unknown label", message), row.place, message)
    return found


def _unknown(counts: Counter[str], known: Sequence[str], unnamed: bool) -> str:
    """Say which labels are unknown, how many rows have each, and which of them are a known one written otherwise."""
    first = counts.most_common(_UNKNOWN_TOLD)
    names = [f"{shown(label)} ({counted(count, 'row')})" for label, count in first]
    more = f" and {len(counts) - len(first):,} more" if len(counts) > len(first) else ""
    which = f"labels are unknown: {', '.join(names)}{more}"
    if len(counts) == 1:
        which = f"the label {shown(first[0][0])} is unknown"
    others = f"; write them as 0 to {len(known) - 1}, as nothing tells their names" if unnamed else ""
    meant = [(label, near) for label in counts if (near := meant_label(label, known)) is not None]
    same = ", ".join(f"{shown(label)} is there written {shown(near)}" for label, near in meant[:_UNKNOWN_TOLD])
    same = f"; {same}" if same else ""
    return f"{which}; the adapter was trained on {listed(map(shown, known), 8)}{others}{same}"


def label_names(labels: Iterable[Label | None]) -> dict[Label, str]:
    """Name each different label, in the order of the ids: numerical or alphabetical."""
    known = {label for label in labels if label is not None}
    integers = sorted(label for label in known if isinstance(label, int))
    texts = sorted(label for label in known if isinstance(label, str))
    return {label: str(label) for label in (*integers, *texts)}


def _given(row: Row, column: str, problems: Problems) -> Given | None:
    """Look up what the row has as its label; a real number only if it is a whole one."""
    value = row.values[column]
    if value is None or (isinstance(value, str) and not value.strip()) or _is_nan(value):
        problems.fault("no label", row.place, f"{column} is empty; every row needs a label")
        return None
    if isinstance(value, bool | int | str) or (isinstance(value, float) and value.is_integer()):
        return value
    hint = ""
    if isinstance(value, float):
        hint = "; real numbers are no classes: group them, or write them as texts if each is a class"
    problems.fault("label", row.place, f"{column} is {shown(value)}; a label is one integer or one text{hint}")
    return None


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value  # a null of pandas


def _label(value: Given) -> Label:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else int(value)


def _names(value: Given) -> tuple[str, ...]:
    """List what the label may have been called where it was learned, the likeliest first."""
    if isinstance(value, str):
        spelled = _INTEGER.fullmatch(value)
        return (value, str(int(spelled[1]))) if spelled else (value,)
    return (str(_label(value)), str(int(value)))  # as a number: so booleans were learned by earlier versions


def _spelled_out(labels: list[Given | None]) -> list[Given | None]:
    matches = [_INTEGER.fullmatch(label) if isinstance(label, str) else None for label in labels]
    if any(label is not None and match is None for label, match in zip(labels, matches, strict=True)):
        return labels
    return [None if match is None else int(match[1]) for match in matches]


def _has_fraction(value: object) -> bool:
    return isinstance(value, str) and ("." in value or "," in value)


def _tell_of_numbers(
    splits: dict[str, list[Row]], given: dict[str, list[Given | None]], column: str, problems: Problems
) -> None:
    """Say what numbers are read as; many different real ones are measurements, and a problem."""
    found = [(row, value) for split, rows in splits.items() for row, value in zip(rows, given[split], strict=True)]
    found = [(row, value) for row, value in found if value is not None]
    faulty = any(value is None for values in given.values() for value in values)
    if not found or (faulty and not problems.skip):  # of which more is said
        return
    values = [value for _, value in found]
    classes = len(set(values))
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) == len(values):
        real = all(map(_NUMBER.fullmatch, texts)) and any(map(_has_fraction, texts))
    else:
        real = any(isinstance(value, float) for value in values)
    place, first = found[0][0].place, next(v for v in values if not real or isinstance(v, float) or _has_fraction(v))
    many = classes > MOST_CLASSES and classes > len(values) / 4
    holds = f"{column} holds {classes:,} different {'real numbers' if real else 'integers'} in {len(values):,} rows"
    if real and many:
        message = (
            f"{holds}, such as {shown(first)}; a label is one of a few classes, and no number is learned as one (no "
            "regression): group them, or name another column"
        )
        problems.add("real labels", place, message)
    elif real:
        named = listed((shown(str(label)) for label in label_names(map(_label, values))), 8)
        message = f"{column} holds real numbers, such as {shown(first)}; they are read as the {classes} classes {named}"
        if classes > 2:
            message += ", of which none is nearer to one than to another (no regression)"
        problems.add("real labels", place, message, severity="warning")
    elif many and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        problems.add("many labels", place, f"{holds}; each is read as a class of its own", severity="warning")
