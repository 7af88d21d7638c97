"""What reaches the terminal: outside text without controls, in letters that the terminal's encoding has.

`main` puts a Screen in place of standard output and standard error, so that no verb, library or traceback can write
past it. What is our own, such as colours and a bar that moves, goes by the console of safe_console.py.
"""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import Any, ClassVar, TextIO

from ..formats.files import as_json
from ..outside import shown_json, shown_lines
from ..show.lines import fitted

# Of our own signs, for encodings that have no other than ASCII.
_LIKE = {
    letter: like
    for letters, like in {
        "│║┃▏▎▍▌▋▊▉": "|", "─═━╌–—−·•": "-", "█▇▆▅▄▃▂▁": "#", "→▶": ">", "←◀": "<", "▲": "^", "▼": "v", "“”": '"',
        "‘’": "'", "┌┐└┘├┤┬┴┼╔╗╚╝╠╣╭╮╰╯╟╢╥╨╪╫╬": "+", "…": "...", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "⟦": "[[",
        "⟧": "]]", "↵": "\\n", "⇥": "\\t", "␍": "\\r", "\xa0": " ",
    }.items()
    for letter in letters
}  # fmt: skip


class _Encodable:
    """A text stream that writes what its encoding lacks by likeness or by number, where others raise an error."""

    _starting: ClassVar[TextIO | None] = None  # the terminal that shows that a verb is starting

    def __init__(self, stream: TextIO):
        self._stream = stream

    def say_starting(self) -> None:
        """Say in a terminal that libraries are being loaded, until anything is written to any such stream."""
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":  # which could not take it back
            self._stream.write(self._encodable("starting …"))
            self._stream.flush()
            _Encodable._starting = self._stream

    @staticmethod
    def end_starting() -> None:
        if (terminal := _Encodable._starting) is not None:
            _Encodable._starting = None
            terminal.write("\r\033[2K")
            terminal.flush()

    def write(self, text: str) -> int:
        self.end_starting()
        self._stream.write(self._encodable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.encode(encoding, _BY_LIKENESS).decode(encoding)
        return text


class Screen(_Encodable):
    """A text stream on which nothing from outside can do anything but be read."""

    def __init__(self, stream: TextIO):
        super().__init__(stream)
        self.own = _Encodable(stream)

    def write(self, text: str) -> int:
        self.own.write(shown_lines(text))
        return len(text)


@contextmanager
def screens() -> Iterator[None]:
    """Make standard output and standard error Screens in the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Screen(stream) for stream in before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _Encodable.end_starting()
        sys.stdout, sys.stderr = before


def own(stream: object) -> Any:
    """Return the way past a Screen; any other stream as it is."""
    return stream.own if isinstance(stream, Screen) else stream


def say_starting() -> None:
    """Say in a terminal that libraries are being loaded, which takes seconds; what is shown next takes its place."""
    own(sys.stderr).say_starting()


def width(stream: TextIO | None = None) -> int | None:
    """Return the columns of the terminal that shows standard output, or the stream; None where none breaks lines."""
    return get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def show(text: str, indent: int = 8) -> None:
    """Print text in lines that the terminal shows whole; where one goes on, it is indented."""
    print(fitted(text, width(), " " * indent), flush=True)


def note(text: str) -> None:
    """Print what is to be known beside the results on standard error, as the results are for programs too."""
    print(fitted(f"note    {text}", width(sys.stderr), " " * 8), file=sys.stderr)


def print_json(value: object, indent: int | None = None) -> None:
    """Print one JSON value on a line, or on several with an indent; flushed, as programs wait for it."""
    print(shown_json(as_json(value, indent), sys.stdout.encoding or "utf-8"), flush=True)


def _by_likeness(problem: UnicodeError) -> tuple[str, int]:
    assert isinstance(problem, UnicodeEncodeError)
    lacking = problem.object[problem.start : problem.end]
    return "".join(_LIKE.get(letter) or ascii(letter)[1:-1] for letter in lacking), problem.end


_BY_LIKENESS = "inlay.by_likeness"
codecs.register_error(_BY_LIKENESS, _by_likeness)
