"""Files and folders that are written whole or not at all: first under another name beside it, then renamed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import SettingsError


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` gets a path in the same folder; what it wrote there becomes `path`, or nothing does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process had begun to write in the folder; nothing else may be writing there."""
    for path in folder.rglob(".*.unfinished"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def folder_written_whole(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place when the block is done, and is gone if it fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.unfinished")
    unfinished.mkdir()
    try:
        yield unfinished
        if out.exists():
            out.rmdir()  # it is empty, and in Windows no folder takes the place of another
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder, made if it is not there, until the block is done or the process has ended in whatever way.

    Raises SettingsError if another process, or another block of this one, holds it. Where the system or the file system
    has no such locks (Windows, some network drives) nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{folder} is being written by another process; wait for it, or stop it") from None
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        os.close(descriptor)


def check_free(folder: Path, asked: str) -> None:
    """Raises SettingsError unless the folder, which the user gave as `asked`, is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{asked} {folder} exists and is not empty; name another folder, so that nothing is lost")
