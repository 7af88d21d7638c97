"""The script that calls for a comparison: each of its processes would run it again, unless it asks which it is.

Python starts a process by reading the main script anew, under another name than `__main__`, so that what the script
defines is there. A script without `if __name__ == "__main__":` would train and compare once more in every process.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ...errors import SettingsError

_MAIN = "__main__"


def check_can_start(things: Iterable[object]) -> None:
    """Raise SettingsError if one of the things that a process needs is from a script that it cannot read again."""
    if not _would_run_again():
        return
    for thing in things:
        kind = thing if isinstance(thing, type) else type(thing)
        if kind.__module__ == _MAIN:
            raise SettingsError(
                f"{kind.__name__} is from the script itself, which each process of a comparison would run again; put "
                f'what the script does under `if __name__ == "{_MAIN}":`, or {kind.__name__} into a module of its own'
            )


@contextmanager
def not_run_again() -> Iterator[None]:
    """Keep a process that is started in the block from running a script that does not ask which process it is in."""
    if not _would_run_again():
        yield
        return
    script = sys.modules[_MAIN]
    sys.modules[_MAIN] = ModuleType(_MAIN)  # which has no file to be read
    try:
        yield
    finally:
        sys.modules[_MAIN] = script


def _would_run_again() -> bool:
    file = getattr(sys.modules.get(_MAIN), "__file__", None)  # a notebook has none
    if file is None:
        return False
    try:
        return _MAIN not in Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
