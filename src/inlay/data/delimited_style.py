"""How a .csv file is written, so that what is made from it opens in the same programs."""

from dataclasses import dataclass
from pathlib import Path

from .delimited import split_text, tells_separator
from .problems import Problems
from .rows import row_extension
from .settings import Reading
from .text_file import has_mark, read_text


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


PLAIN = Style()


def style_of(path: Path, reading: Reading) -> Style:
    """Return how the file is written; PLAIN if it is no .csv file, or if nothing can be told of it."""
    if row_extension(path.name) not in (".csv", ".csv.gz"):
        return PLAIN
    problems = Problems()
    text = read_text(path, problems, reading.unpacked_megabytes)
    split = (
        None
        if text is None
        else split_text(path.name, text, PLAIN.separator, reading.separator, reading.quoting, problems)
    )
    if text is None or split is None:
        return PLAIN
    return Style(split.separator, has_mark(path), tells_separator(text), split.quoted)
