"""Where progress can be seen: sentences that stay, and bars that move until what they count is done."""

import html
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from ..show.lines import fitted
from ..show.units import seconds_text

_STYLES = {"failed": "bold red", "interrupted": "bold yellow", "warned": "bold yellow", "finished": "bold green"}
_COLOURS = {"failed": "#b3261e", "interrupted": "#8a6100", "warned": "#8a6100", "finished": "#1a7f37"}
_INDENT = " " * 8  # below the word that a sentence begins with
_PLAIN = (  # whatever style sheet a notebook is shown with
    "margin: 0; padding: 0; font-family: monospace; white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
)
_SECONDS = 0.2  # between two looks of a notebook's bars


@dataclass
class Bar:
    """One thing that goes on: its name or its step, how far it is, and what there is to say of it now."""

    text: str
    done: int = 0
    of: int | None = None
    now: str = ""
    ends: float | None = None
    """When it should be done, by time.monotonic(): what is left till then is told anew each time it is drawn."""

    @property
    def told(self) -> str:
        if self.ends is None:
            return self.now
        left = self.ends - time.monotonic()
        return f"about {seconds_text(left)} left" if left > 0 else "later than was told"


class Display(Protocol):
    """Something that shows progress. Its bars have names; the same name again moves the bar."""

    def say(self, text: str, state: str) -> None: ...
    def show(self, name: str, bar: Bar) -> None: ...
    def remove(self, name: str) -> None: ...


class _Told(ProgressColumn):
    """A column of what there is to say of each bar now."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].told)


@dataclass
class TerminalDisplay:
    """Sentences scroll by above the bars."""

    progress: Progress
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    @staticmethod
    def columns() -> tuple[ProgressColumn, ...]:
        return TextColumn("{task.description}"), BarColumn(bar_width=24), _Told()

    def say(self, text: str, state: str) -> None:
        """Print the sentence, which breaks between words."""
        console = self.progress.console
        console.print(fitted(text, console.width, _INDENT), style=_STYLES.get(state), soft_wrap=True)

    def show(self, name: str, bar: Bar) -> None:
        if not self.progress.live.is_started:
            self.progress.start()
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(bar.text, total=bar.of, bar=bar)
        task = self._tasks[name]
        self.progress.update(task, description=bar.text, total=bar.of, completed=bar.done, bar=bar)

    def remove(self, name: str) -> None:
        self.progress.remove_task(self._tasks.pop(name))


class NotebookDisplay:
    """One output of a cell, that is replaced; the sentences are what is left of it."""

    def __init__(self) -> None:
        from IPython.display import display

        self.lines: list[tuple[str, str]] = []
        self.bars: dict[str, Bar] = {}
        self.drawn_at = time.monotonic()
        self.handle: Any = display(self._bundle(), raw=True, display_id=True)

    def say(self, text: str, state: str) -> None:
        self.lines.append((text, state))
        self._draw()

    def show(self, name: str, bar: Bar) -> None:
        self.bars[name] = bar
        if time.monotonic() - self.drawn_at >= _SECONDS:
            self._draw()

    def remove(self, name: str) -> None:
        del self.bars[name]
        self._draw()

    def close(self) -> None:
        self.bars.clear()
        self._draw()

    def _draw(self) -> None:
        self.drawn_at = time.monotonic()
        self.handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        plain = "\n".join([*(text for text, _ in self.lines), *(f"{b.text}  {b.told}" for b in self.bars.values())])
        return {"text/plain": plain, "text/html": "".join([*map(_line, self.lines), *map(_bar, self.bars.values())])}


def _line(said: tuple[str, str]) -> str:
    text, state = said
    colour = f"color: {_COLOURS[state]}; " if state in _COLOURS else ""
    return f'<pre style="{colour}{_PLAIN}">{html.escape(text)}</pre>'


def _bar(bar: Bar) -> str:
    now = html.escape(f"{bar.text}  {bar.told}".strip())
    value = "" if bar.of is None else f' value="{bar.done}" max="{bar.of}"'
    return f'<pre style="{_PLAIN}"><progress{value}></progress>  {now}</pre>'
