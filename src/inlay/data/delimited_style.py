"""How a file of rows is written, so that what is made from it opens in the same programs."""

from dataclasses import dataclass
from pathlib import Path

from .delimited import split_text, tells_separator
from .problems import Problems
from .rows import row_extension
from .settings import Reading
from .text_file import LINE_END, has_mark, read_text


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


def style_of(path: Path, reading: Reading) -> Style:
    """Return how the file is written, PLAIN if nothing can be told of it. Of one that is no .csv only the end of its
    lines counts.
    """
    if row_extension(path.name) == ".parquet":
        return PLAIN
    problems = Problems()
    if (text := read_text(path, problems, reading.unpacked_megabytes)) is None:
        return PLAIN
    first_end = LINE_END.search(text)
    line_end = "\r\n" if first_end is not None and first_end[0] == "\r\n" else PLAIN.line_end
    if row_extension(path.name) not in (".csv", ".csv.gz"):
        return Style(line_end=line_end)
    split = split_text(path.name, text, PLAIN.separator, reading.separator, reading.quoting, problems)
    if split is None:
        return PLAIN
    return Style(split.separator, has_mark(path), tells_separator(text), split.quoted, line_end)
