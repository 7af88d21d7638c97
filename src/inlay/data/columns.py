"""Columns by their names, whatever their case, and which of them are likely to be meant."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from ..errors import nearest_name
from ..names import followed, meant
from .holdout import normalised
from .labels import MOST_CLASSES
from .problems import listed
from .rows import Row

_SHORTEST_SENTENCE = 3  # words on average
_LOOKED_AT = 1000  # rows
_LONGEST_LABEL = 100  # characters
_NEARLY_ALL = 0.95  # of the rows have a value: damaged ones may be among them
_FEWEST = 4  # rows with a value, of which something can be told
_REAL = re.compile(r"[-+]?[0-9]*[.,][0-9]+(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2,4}")
_NAMES_OF_LABELS = re.compile(
    r"label|class|categor|topic|intent|sentiment|target|kind|type|tag|emotion|stars|rating"
    r"|klass|kategor|catégor|thema|tema|étiquette|etiqueta|etikett|clase"  # in other languages
)


def find_column(name: str, columns: Collection[str]) -> str | None:
    """Return the column of this name, or else the only one whose name differs in case or white space alone."""
    return name if name in columns else _alike(name, tuple(columns))


@lru_cache(4096)
def _alike(name: str, columns: tuple[str, ...]) -> str | None:
    alike = [column for column in columns if normalised(column) == normalised(name)]
    return alike[0] if len(alike) == 1 else None


def renamed(row: Row, columns: Iterable[str]) -> Row:
    """Return the row with the columns called so, where it has them in another case."""
    names = {found: name for name in columns if name not in row.values and (found := find_column(name, row.values))}
    if not names:
        return row
    return replace(row, values={names.get(name, name): value for name, value in row.values.items()})


def no_column(column: str, columns: Collection[str]) -> str:
    """Write `no column "lable"; did you mean label? The columns are text, label`."""
    return followed(f'no column "{column}"{nearest_name(column, columns)}', f"the columns are {listed(columns)}")


def others_named(rows: Sequence[Row], wanted: Mapping[str, str], usual: Mapping[str, Collection[str]]) -> str:
    """Say which flags name other columns for those of the `wanted` ones, by role, that the first row has not; nothing
    if each has a name like one of its own.

    A text is likely in a column with a name that is `usual` for its role, else in those with the longest texts, and a
    label where values repeat.
    """
    there = rows[0].values
    absent = [role for role, column in wanted.items() if find_column(column, there) is None]
    near = {role: meant(wanted[role], sorted(there)) for role in absent}
    if all(near.values()):
        return ""
    taken = {find_column(column, there) for column in wanted.values()} | {own[0] for own in near.values() if own}
    values = {column: own for column, own in _values(rows).items() if column not in taken}
    lengths = {c: sum(map(len, map(str, own))) / len(own) for c, own in values.items() if _are_texts(own)}
    of_text = [role for role in absent if role != "label" and not near[role]]
    found: dict[str, str] = {}
    for role in of_text:
        free = [column for column in lengths if column not in found.values()]
        if called_so := next(filter(None, (find_column(name, free) for name in usual[role])), None):
            found[role] = called_so
    left = [role for role in of_text if role not in found]
    others = [column for column in lengths if column not in found.values()]
    longest = sorted(others, key=lambda column: -lengths[column])[: len(left)]
    found |= zip(left, (column for column in others if column in longest), strict=False)
    labels = likely_labels(rows, [*filter(None, taken), *found.values()])
    found |= {"label": labels[0]} if labels else {}
    named = {role: (*near[role], found.get(role, "COLUMN"))[0] for role in absent}
    return f"{'another is' if len(named) == 1 else 'others are'} named with {flags(named)}"


def likely_labels(rows: Sequence[Row], others: Collection[str]) -> list[str]:
    """Return the columns whose values repeat as those of labels do, the likeliest first; none of the `others`.

    A name of labels speaks for a column, then that hardly a value is missing, and then few different values.
    """
    looked_at = min(len(rows), _LOOKED_AT)
    found = {column: values for column, values in _values(rows).items() if column not in others and _repeat(values)}
    return sorted(
        found,
        key=lambda column: (
            not _is_name_of_labels(column),
            len(found[column]) < _NEARLY_ALL * looked_at,
            len(set(map(str, found[column]))),
        ),
    )


def real_numbers(rows: Sequence[Row], others: Collection[str]) -> list[str]:
    """Return the columns that hold real numbers, such as scores; none of the `others`."""
    return [column for column, values in _values(rows).items() if column not in others and _are_real(values)]


def flags(columns: Mapping[str, str]) -> str:
    """Return what names the columns, by role, on the command line."""
    named = (f"--data.{role.replace('_', '-')} {shlex.quote(column)}" for role, column in columns.items())
    return " ".join(named)


def likely_roles(rows: Sequence[Row], named: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that are likely the text and its label, two texts and theirs, or a prompt and its completion,
    with what is `named` already; empty if nothing speaks for any.
    """
    values = _values(rows)
    labels = [named["label"]] if "label" in named else likely_labels(rows, named.values())
    numbers = real_numbers(rows, named.values())
    if numbers:  # which may be what is to be learned: a name must speak for another column
        labels = [column for column in labels if column in named.values() or _is_name_of_labels(column)]
    lengths = {column: sum(map(len, map(str, own))) / len(own) for column, own in values.items() if own}
    of_words = [column for column, own in values.items() if any(" " in str(value).strip() for value in own)]
    texts = sorted((c for c in of_words if c not in named.values()), key=lambda c: -lengths[c])
    if "text" in named:
        texts.insert(0, named["text"])
    if texts and (others := [column for column in labels if column != texts[0]]):
        alike = [
            c for c in texts if c != others[0] and lengths[c] >= lengths[texts[0]] / 2 and _are_sentences(values[c])
        ]
        if len(alike) == 2 and not {"text", "text_pair"} & named.keys():
            first, second = (column for column in values if column in alike)
            return {"text": first, "text_pair": second, "label": others[0], **named}
        return {"text": texts[0], "label": others[0], **named}
    if len(texts) == 2 and not named and not numbers:
        first, second = (column for column in values if column in texts)
        return {"prompt": first, "completion": second}
    return {}


def _is_name_of_labels(column: str) -> bool:
    return _NAMES_OF_LABELS.search(column.casefold()) is not None


def _values(rows: Sequence[Row]) -> dict[str, list[object]]:
    """Return the values of each column of the first row that are there, in the first rows."""
    looked_at = rows[:_LOOKED_AT]
    return {
        column: [value for row in looked_at if (value := row.values.get(column)) not in (None, "")]
        for column in looked_at[0].values
    }


def _are_texts(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _are_sentences(values: Sequence[object]) -> bool:
    words = [len(str(value).split()) for value in values]
    return _are_texts(values) and sum(words) >= _SHORTEST_SENTENCE * len(words) and not _repeat(values)


def _repeat(values: Sequence[object]) -> bool:
    if len(values) < _FEWEST or not all(isinstance(value, str | int) for value in values):
        return False
    different = {str(value) for value in values}
    if any(map(_DATE.match, different)) or _are_real(values):
        return False
    if len(different) > MOST_CLASSES and all(map(str.isdecimal, different)):
        return False
    return 2 <= len(different) <= len(values) / 2 and all(len(value) <= _LONGEST_LABEL for value in different)


def _are_real(values: Sequence[object]) -> bool:
    if len(values) < _FEWEST or not all(isinstance(value, str | int | float) for value in values):
        return False
    texts = [value for value in values if isinstance(value, str)]
    return any(isinstance(value, float) for value in values) or (
        bool(texts)
        and all(_REAL.fullmatch(text) or text.isdecimal() for text in texts)
        and any(_REAL.fullmatch(text) for text in texts)
    )
