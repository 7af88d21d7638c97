"""The text of a file, plain or packed: its bytes within a bound, its encoding, its lines."""

import codecs
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from .problems import Problems

PACKED_RATIO = 100
"""Times its own size that a packed file may unpack to. Texts pack to a tenth, gzip's limit is a thousandth."""
SMALLEST_BOUND = 64_000_000  # bytes: less is never called too much

_LINE_END = re.compile(r"\r\n|\n|\r")
# The marks come from longest to shortest, as one of UTF-32 starts with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAMPLE = 20_000  # bytes around the place where UTF-8 ends
_MOST_ACCENTED = 0.3  # of a western text's bytes are no ASCII
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_LONGEST_RUN = 3  # of these bytes in a western text, mostly


@dataclass(frozen=True)
class Bound:
    """How much a packed file may unpack to, so that a few damaged or hostile kilobytes do not fill the memory."""

    bytes: int

    @classmethod
    def of(cls, path: Path, megabytes: int | None) -> "Bound":
        """Return the bound that the user names, or one that follows from the file's own size."""
        if megabytes is not None:
            return cls(megabytes * 1_000_000)
        return cls(max(PACKED_RATIO * path.stat().st_size, SMALLEST_BOUND))

    def complaint(self) -> str:
        return (
            f"unpacks to more than {self.bytes // 1_000_000:,} MB, as a damaged or hostile file does; if it is meant, "
            "allow more with data.unpacked_megabytes, or unpack it first"
        )


class TooMuch(Exception):
    """A file that unpacks to more than its bound."""


def read_text(path: Path, problems: Problems, megabytes: int | None = None, name: str | None = None) -> str | None:
    """Return the file's text without a byte-order mark, or None and a problem if it cannot be read.

    `megabytes` is what a packed file may unpack to, and `name` what messages call the file.
    """
    name = name or path.name
    if path.exists() and not path.is_file():
        problems.add(("unreadable", path), name, "is no regular file; write the rows into one")
        return None
    try:
        data = _content(path, megabytes)
    except TooMuch as problem:
        problems.add(("unreadable", path), name, str(problem))
        return None
    except (OSError, EOFError, zlib.error) as problem:
        problems.add(("unreadable", path), name, f"cannot be read: {problem}")
        return None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        problems.add(("encoding", path), f"{name}:{line}", _not_utf_8(data, problem, name))
        return None
    if (null := text.find("\0")) >= 0:
        line = text.count("\n", 0, null) + 1
        utf_16 = text.count("\0") > len(text) / 4
        guess = f"is UTF-16; {_advice(name, 'UTF-16')}" if utf_16 else "is damaged, or no text; take the character out"
        message = f"holds a NUL character, so the file {guess}"
        problems.add(("encoding", path), f"{name}:{line}", message)
        return None
    return text


def first_line(path: Path) -> bytes:
    """Return the first line of a file that can be read, with its byte-order mark and what ends it."""
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        return file.readline()


def lines_of(text: str) -> list[str]:
    r"""Return the lines, whether they end as on Linux (\n), on Windows (\r\n) or as once on a Mac (\r).

    Not those of splitlines(): JSON text may hold U+2028 and other characters that it takes for ends of lines.
    """
    return _LINE_END.split(text) if "\r" in text else text.split("\n")


def _content(path: Path, megabytes: int | None) -> bytes:
    if not path.name.lower().endswith(".gz"):
        return path.read_bytes()
    bound, data = Bound.of(path, megabytes), bytearray()
    with gzip.open(path, "rb") as file:
        while chunk := file.read(1_000_000):
            data += chunk
            if len(data) > bound.bytes:
                raise TooMuch(bound.complaint())
    return bytes(data)


def _not_utf_8(data: bytes, problem: UnicodeDecodeError, name: str) -> str:
    """Return where the file is not UTF-8, what it is likely to be instead, and how to save it."""
    found = f"byte {problem.start} of the file is 0x{data[problem.start]:02x}, which is not UTF-8"
    if problem.reason == "unexpected end of data":
        return f"{found}: the file ends within a character, so its end is missing; get it whole"
    encoding = _likely(data, problem.start)
    if encoding is None:
        return f"{found}; save the file as UTF-8{_in_excel(name)}"
    return f"{found} (the file looks like {encoding}); {_advice(name, encoding)}"


def _likely(data: bytes, start: int) -> str | None:
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        return marked
    sample = data[max(0, start - _SAMPLE // 2) : start + _SAMPLE // 2]
    if sample.count(0) > len(sample) / 4:
        return "UTF-16"
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return None
    runs = [len(run) for run in _BEYOND_ASCII.findall(sample)]
    # Words that have nothing else are of another alphabet, however few they are.
    of_words = sum(run for run in runs if run > _LONGEST_RUN)
    western = sum(runs) < _MOST_ACCENTED * len(sample) and of_words < sum(runs) / 2
    return "Windows-1252" if western and not sample.count(0) else None


def _advice(name: str, encoding: str) -> str:
    convert = f"iconv -f {encoding.upper()} -t UTF-8 OLD > NEW"
    return f"save the file as UTF-8{_in_excel(name)}, or convert it: {convert}"


def _in_excel(name: str) -> str:
    return ' (in Excel: Save As, "CSV UTF-8")' if re.search(r"\.(csv|tsv|txt)$", name.lower()) else ""
