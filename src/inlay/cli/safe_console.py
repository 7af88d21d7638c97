"""rich on a Screen: colours and bars are our own, what is in them may be from outside."""

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn
from rich.segment import Segment

from ..outside import shown_lines
from .screen import own, screens


class _SafeConsole(Console):
    """rich's console, in whose texts only rich itself writes controls."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown_lines(segment.text))


class _SafeProgress(Progress):
    """rich's bars; what others write meanwhile scrolls by above them, and is made safe before rich sees it."""

    def start(self) -> None:
        super().start()
        self._screens = screens()
        self._screens.__enter__()

    def stop(self) -> None:
        self._screens.__exit__(None, None, None)
        super().stop()


def console() -> Console:
    """A console on standard output, to which a text is a text: no markup, no emoji codes, no guessed colours."""
    return _SafeConsole(file=own(sys.stdout), highlight=False, markup=False, emoji=False)


def progress(*columns: ProgressColumn) -> Progress:
    """Bars that vanish when they are done."""
    return _SafeProgress(*columns, console=console(), transient=True)
