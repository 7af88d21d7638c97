"""rich on a Screen: colours and bars are our own, what is in them may be from outside."""

import sys
from collections.abc import Iterable
from shutil import get_terminal_size
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn
from rich.segment import Segment
from rich.text import Text

from ..outside import shown_lines
from .screen import own, screens


class _SafeConsole(Console):
    """rich's console, in whose texts only rich itself writes controls."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        renderable = _safe(renderable) if isinstance(renderable, Text) else renderable
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown_lines(segment.text))


def _safe(text: Text) -> Text:
    """Return the text with its styles, safe before it is broken into lines."""
    unsafe = [i for i, letter in enumerate(text.plain) if shown_lines(letter) != letter]
    pieces = text.divide(sorted({edge for i in unsafe for edge in (i, i + 1)}))
    for piece in pieces if unsafe else ():
        piece.plain = shown_lines(piece.plain)
    return text.blank_copy().join(pieces) if unsafe else text


class _SafeProgress(Progress):
    """rich's bars; what others write meanwhile scrolls by above them, and is made safe before rich sees it."""

    def start(self) -> None:
        super().start()
        self._screens = screens()
        self._screens.__enter__()

    def stop(self) -> None:
        if self.live.is_started:
            self._screens.__exit__(None, None, None)
            super().stop()


def console() -> Console:
    """Return a console on standard output, to which a text is a text: no markup, no emoji codes, no guessed colours.

    It is as wide as all else that is shown: rich by itself takes a terminal without controls to be 80 columns wide.
    """
    size = get_terminal_size()
    return _SafeConsole(
        file=own(sys.stdout), width=size.columns, height=size.lines, highlight=False, markup=False, emoji=False
    )


def progress(*columns: ProgressColumn) -> Progress:
    """Return bars that vanish when they are done."""
    return _SafeProgress(*columns, console=console(), transient=True)
