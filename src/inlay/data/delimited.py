"""Fields of a text with separators, as spreadsheets and databases write it: with commas, semicolons, tabs or bars."""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from .problems import Problems, listed

Quoting = Literal["auto", "double", "none"]
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""The separators that are found out, the likeliest first."""
_SPELLED = {"tab": "\t", "\\t": "\t"}  # what a shell or a YAML file can hardly have
_TOLD = re.compile(r'"?sep=([^\w"\r\n])"?(?=\r|\n|$)', re.IGNORECASE)  # Excel's own first line

_MOST = 0.5  # of the rows


@dataclass(frozen=True)
class Record:
    """A row of a file: the line on which it begins, and its fields."""

    line: int
    fields: list[str]


@dataclass
class Split:
    """A text split at one separator: the records that have as many fields as the header, and what is wrong with
    others.
    """

    separator: str
    quoted: bool
    """Whether a field may stand in double quotes; otherwise they are letters like others."""
    header: Record
    records: list[Record]
    uneven: list[Record]
    fault: tuple[int, str] | None = None
    """The line from which on nothing can be split, and why."""
    told: bool = False
    """Whether the text's first line, such as `sep=;`, tells the separator."""

    @property
    def is_table(self) -> bool:
        """Whether it has several columns and all can be read."""
        return len(self.header.fields) > 1 and not self.uneven and self.fault is None

    @property
    def share(self) -> float:
        """The share of the records that have as many fields as the header."""
        return len(self.records) / ((len(self.records) + len(self.uneven)) or 1)


def separator_in(asked: str) -> str | None:
    """Return the one character that is meant; None if it cannot separate fields."""
    meant = _SPELLED.get(asked.lower(), asked)
    return meant if len(meant) == 1 and not meant.isalnum() and meant not in '"\r\n\0' else None


def split_text(
    name: str, text: str, usual: str, separator: str | None, quoting: Quoting, problems: Problems
) -> Split | None:
    """Split a file's text at the `separator`, or if none is named at the one that it tells in its first line, or at the
    `usual` one; at another if that one fits and this does not. None if there is no header.

    Double quotes enclose fields, but not with `quoting` none, nor, unless it is double, between tabs where that fails:
    many programs write such files without. A note says what was taken, unless it is named or usual.
    """
    asked = None if separator is None else separator_in(separator)
    told = _TOLD.match(text)
    if told is not None:
        text = text[told.end() :]  # the line's end stays, so that lines are counted as they are
    with _long_fields(text):
        chosen = _split(text, asked or (told[1] if told else usual), quoting)
        if asked is None and told is None and chosen is not None:
            chosen = _better(text, chosen, quoting)
    if chosen is not None and asked is None and chosen.separator != usual:
        how = "as its first line says" if told else "found from its header; data.separator names another"
        # Files that belong together are mostly alike: it is said of the first, and counts no rows.
        what = f"fields are separated by {spelled(chosen.separator)}, {how}"
        problems.add(("separator", chosen.separator), name, what, severity="note", rows=0)
    if chosen is not None and not chosen.quoted and quoting == "auto":
        what = (
            "double quotes are letters here, since rows cannot be split otherwise; data.quoting double encloses fields"
        )
        problems.add(("quoting", chosen.quoted), name, what, severity="note", rows=0)
    return None if chosen is None else replace(_without_empty_columns(chosen), told=told is not None)


def spelled(separator: str) -> str:
    """Return what a message calls it."""
    return NAMES.get(separator, f'"{separator}"')


def tell(split: Split, name: str, problems: Problems) -> None:
    """Add what is wrong with the records to `problems`."""
    columns = split.header.fields
    enclosed = "must be in double quotes" if split.quoted else "cannot be told, as double quotes are letters here"
    for record in split.uneven:
        message = (
            f"the row has {len(record.fields)} fields, the header {len(columns)} ({listed(columns)}), separated by "
            f"{spelled(split.separator)}; a field that holds the separator or a line break {enclosed}; "
            "data.separator names another separator"
        )
        problems.fault("fields", f"{name}:{record.line}", message)
    if split.fault is not None:
        line, why = split.fault
        message = f"the row cannot be split into fields, so the file is not read: {why}"
        problems.add(("csv", name), f"{name}:{line}", message)


def _better(text: str, usual: Split, quoting: Quoting) -> Split:
    """Return the text split at another separator where the usual one does not make a table of it.

    What has commas is read with commas: only if they leave the header whole, or rows of other lengths, another
    separator may be meant. It must part the header, and most of the rows into as many fields; all of them where commas
    part the header too.
    """
    if usual.is_table:
        return usual
    header = usual.header.fields
    seen = header[0] if len(header) == 1 else text
    others = (
        _split(text, separator, quoting) for separator in NAMES if separator != usual.separator and separator in seen
    )
    if len(header) > 1:
        fitting = [split for split in others if split is not None and split.is_table and split.records]
    else:
        fitting = [split for split in others if split is not None and _fits(split)]
    return max(fitting, key=lambda split: (split.share, len(split.header.fields)), default=usual)


def _fits(split: Split) -> bool:
    nothing = not split.records and not split.uneven
    return len(split.header.fields) > 1 and (nothing or split.share > _MOST)


def _split(text: str, separator: str, quoting: Quoting) -> Split | None:
    if quoting != "auto" or separator != "\t" or '"' not in text:
        return _split_so(text, separator, quoting != "none")
    quoted, plain = (_split_so(text, separator, each) for each in (True, False))
    if quoted is None or plain is None or len(plain.records) <= len(quoted.records):
        return quoted
    # More rows without: either all have their fields so, and a quote had swallowed the ends of lines, or most have them
    # and with quotes not all.
    fails = quoted.fault is not None or bool(quoted.uneven)
    return plain if plain.is_table or (fails and plain.share > _MOST) else quoted


def _split_so(text: str, separator: str, quoted: bool) -> Split | None:
    # strict: without it a quote that is never closed swallows the rest of the file in silence.
    how = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=how, strict=True)
    split: Split | None = None
    next_line = 1
    try:
        for fields in reader:
            record, next_line = Record(next_line, fields), reader.line_num + 1
            if not any(fields) and len(fields) != 1:  # a blank line, or what a spreadsheet makes of an empty row
                continue
            if split is None:
                split = Split(separator, quoted, record, [], [])
            elif len(fields) == len(split.header.fields):
                split.records.append(record)
            else:
                split.uneven.append(record)
    except csv.Error as problem:
        split = split or Split(separator, quoted, Record(next_line, []), [], [])
        split.fault = (next_line, _complaint(str(problem), separator))
    return split


def _complaint(said: str, separator: str) -> str:
    """Return what the csv module said, for those who have not written it."""
    if "expected after" in said:
        what = f"the double quote that ends a field is followed neither by {spelled(separator)} nor by the line's end"
    elif "unexpected end" in said:
        what = "a double quote opens a field and none closes it"
    else:
        return said
    return f"{what}; write a quote within a field twice, or if quotes enclose no fields here: --data.quoting none"


def _without_empty_columns(split: Split) -> Split:
    """Return the table without columns that have neither a name nor a value, which spreadsheets add at the right."""
    used = [i for i, name in enumerate(split.header.fields) if name or any(r.fields[i] for r in split.records)]
    if len(used) < len(split.header.fields) and not split.uneven:
        for record in (split.header, *split.records):
            record.fields[:] = [record.fields[i] for i in used]
    return split


@contextmanager
def _long_fields(text: str) -> Iterator[None]:
    """Let a field be as long as the text. The module's own bound is for all of the process, so it is put back."""
    before = csv.field_size_limit(max(len(text), 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
