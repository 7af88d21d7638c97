"""How a file of rows is written, so that what is made from it opens in the same programs."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from .delimited import Split
from .rows import row_extension
from .text_file import first_line

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Style:
    """What a program such as Excel needs to see the columns and letters of a .csv file."""

    separator: str = ","
    marked: bool = False
    """Whether it begins with a byte-order mark, without which Excel takes UTF-8 for another encoding."""
    told: bool = False
    """Whether a first line, such as `sep=;`, tells the separator."""
    quoted: bool = True
    """Whether double quotes enclose fields."""
    line_end: str = "\n"
    """What ends a line, in a file of any kind."""


PLAIN = Style()


def style_of(path: Path, split: Split | None) -> Style:
    """Return how a file is written that was read, and split so if it is a .csv; PLAIN of what is no text. Of one that
    is no .csv only the end of its lines counts.
    """
    if row_extension(path.name) == ".parquet":
        return PLAIN
    line = first_line(path)
    end = _LINE_END.search(line)
    line_end = "\r\n" if end is not None and end[0] == b"\r\n" else PLAIN.line_end
    if split is None:
        return Style(line_end=line_end)
    return Style(split.separator, line.startswith(codecs.BOM_UTF8), split.told, split.quoted, line_end)
