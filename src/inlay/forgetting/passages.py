"""General text that a model is measured on: the passages that come with Inlay, or those of the user's file.

About a third of them is never measured: a run that is to forget less trains on those, so that what it is measured on
stays new to it.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

from ..data.formats import no_column
from ..data.holdout import normalised
from ..data.problems import Problems, listed
from ..data.rows import EXTENSIONS, Row, plain_text, read_rows, row_extension, text_in
from ..data.source import BUILTIN, BUILTIN_FOLDER, nearest_file
from ..data.text_file import read_text
from ..errors import DataError
from ..formats.paths import path_of

BUILTIN_PASSAGES = BUILTIN + "passages"
LONGEST = 512  # tokens: a longer passage is cut

_FEWEST_WORDS = 8  # of a passage: headings are none
_FEWEST_PASSAGES = 24
_KEPT_SHARE = 3  # one in three
_MOST_MEASURED = 168  # as many as come with Inlay


@dataclass(frozen=True)
class Passage:
    text: str
    domain: str | None
    """What kind of text it is, such as `cooking`, if that is known."""


@dataclass(frozen=True, kw_only=True)
class GeneralText:
    source: str
    """builtin:passages, or the user's file."""
    measured: tuple[Passage, ...]
    """So ordered that every start of it is a fair sample of the whole."""
    kept: tuple[Passage, ...]
    """What a run may train on to forget less; none of it is measured."""
    max_length: int
    """Tokens after which a passage is cut."""
    notes: tuple[str, ...] = ()
    """What was left out."""

    def halves(self) -> tuple[Self, Self]:
        """Return it with one half of what is measured, which can check what was chosen by the other half, and with
        that. Raises DataError if that is too little text."""
        middle = len(self.measured) // 2
        if middle < _FEWEST_PASSAGES:
            raise DataError(
                f"{self.source}: --forget-at-most needs {2 * _FEWEST_PASSAGES} passages that are measured, half to "
                f"choose by and half to check; found {len(self.measured)}, as a third of the file is kept for training"
            )
        return replace(self, measured=self.measured[:middle]), replace(self, measured=self.measured[middle:])


def general_text(retain: str | None, max_length: int) -> GeneralText:
    """Read the user's passages, or those that come with Inlay. Raises DataError, with lines, for a useless file.

    The user's rows are parted by a hash of their text, so that neither their order nor other rows change a passage's
    part.
    """
    return _builtin(max_length) if retain is None else _of_user(retain, max_length)


def _builtin(max_length: int) -> GeneralText:
    rows = read_rows(BUILTIN_FOLDER / "passages" / "passages.jsonl", Problems())
    parts: dict[str, list[Passage]] = {"probe": [], "keep": []}
    for row in rows:
        part, text, domain = (str(row.values[column]) for column in ("split", "text", "domain"))
        parts[part].append(Passage(text, domain))
    measured, kept = map(tuple, (parts["probe"], parts["keep"]))
    return GeneralText(source=BUILTIN_PASSAGES, measured=measured, kept=kept, max_length=max_length)


def _of_user(asked: str, max_length: int) -> GeneralText:
    problems = Problems()
    rows = _rows(asked, problems)
    found: dict[str, Passage] = {}  # by digest: a passage that is there twice counts once
    short = 0
    for row in rows:
        text = _text(row, problems)
        if text is None:
            continue
        if len(text.split()) < _FEWEST_WORDS:
            short += 1
            continue
        domain = row.values.get("domain")
        digest = hashlib.sha256(normalised(text).encode()).hexdigest()
        found.setdefault(digest, Passage(text, domain if isinstance(domain, str) else None))
    problems.raise_errors()
    if len(found) < _FEWEST_PASSAGES:
        raise DataError(
            f"{asked}: {len(found)} different passages of {_FEWEST_WORDS} words or more are too few to measure "
            f"forgetting on; give at least {_FEWEST_PASSAGES}"
        )
    parts: dict[Literal["measured", "kept"], list[Passage]] = {"measured": [], "kept": []}
    for digest in sorted(found):
        parts["kept" if int(digest, 16) % _KEPT_SHARE == 0 else "measured"].append(found[digest])
    twice = len(rows) - short - len(found)
    return GeneralText(
        source=asked,
        measured=tuple(parts["measured"][:_MOST_MEASURED]),
        kept=tuple(parts["kept"]),
        max_length=max_length,
        notes=tuple(_notes(asked, rows, short, twice, len(parts["measured"]) - _MOST_MEASURED)),
    )


def _rows(asked: str, problems: Problems) -> list[Row]:
    path = path_of(asked, DataError, any_bytes=True)
    if not path.is_file():
        raise DataError(f"--retain {asked}: no such file{nearest_file(path)}")
    if row_extension(path.name) is None:
        raise DataError(f"--retain {asked}: not a kind of file that can be read; known: {', '.join(EXTENSIONS)}")
    if not plain_text(path.name):
        return read_rows(path, problems)
    text = read_text(path, problems) or ""
    paragraphs = re.finditer(r"\S.*?(?=\n\s*\n|\s*\Z)", text.replace("\r\n", "\n"), re.DOTALL)
    return [Row({"text": p[0]}, f"{path.name}:{text.count(chr(10), 0, p.start()) + 1}") for p in paragraphs]


def _text(row: Row, problems: Problems) -> str | None:
    if "text" not in row.values:
        problems.add("no text", row.place, no_column("text", row.values))
        return None
    return text_in(row, "text", problems)


def _notes(asked: str, rows: list[Row], short: int, twice: int, many: int) -> Iterator[str]:
    if short:
        yield f"{asked}: {short} texts of fewer than {_FEWEST_WORDS} words are no passages and are left out"
    if twice:
        yield f"{asked}: {twice} passages are there already and count once"
    if many > 0:
        yield f"{asked}: forgetting is measured on {_MOST_MEASURED} of the passages, and not on {many} more"
    columns = dict.fromkeys(column for row in rows for column in row.values)
    if ignored := [column for column in columns if column not in ("text", "domain")]:
        yield f"{asked}: ignored columns: {listed(ignored)}"
