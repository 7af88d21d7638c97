"""Files and folders that are written whole or not at all: first under another name beside it, then renamed.

What is renamed is on the disk before, and its new name is afterwards: a power failure leaves the old or the new. It
has the permissions that the umask gives: some libraries write files that nobody else may read.
"""

import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import SettingsError

_UNFINISHED = ".unfinished"
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)  # of a folder, where the system knows none


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Give `write` a path in the same folder; what it wrote there becomes `path`, or nothing does."""
    make_folder(path.parent)
    unfinished = _unfinished(path)
    _remove(unfinished)
    try:
        mode = _mode_of_new_files(unfinished)
        write(unfinished)
        _permit(unfinished, mode)
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    finally:
        _remove(unfinished)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. Bytes of a file name that were no text have no form in it; they are escaped as in JSON."""
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write valid JSON, whatever the numbers are."""
    write_text(path, as_json(value, indent=2) + "\n")


def as_json(value: object, indent: int | None = None) -> str:
    """Write JSON text. JSON knows neither NaN nor infinities: they become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def digest_of(path: Path) -> str:
    """Compute the file's SHA-256, in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_whole(path: Path, to: Path) -> None:
    """Make `to` the same file, which takes no room of its own where the file system has links."""

    def copy(unfinished: Path) -> None:
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)

    write_whole(to, copy)


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Give `write` a new folder; with what it wrote there it takes the place of `folder`, whose files are then gone.

    Nobody sees some of the old files and some of the new. Where the file system cannot exchange two folders there is
    none for a moment.
    """
    make_folder(folder.parent)
    with _new_folder(folder) as unfinished:
        write(unfinished)
        _finish_all(unfinished)
        if not folder.exists():
            os.replace(unfinished, folder)
        elif not _exchange(unfinished, folder):
            _put_aside_and_replace(unfinished, folder)
        sync(folder.parent)


@contextmanager
def folder_written_whole(out: Path) -> Iterator[Path]:
    """Give a new folder beside `out`, which takes its place when the block is done, and is gone if it fails."""
    out = out.absolute()
    make_folder(out.parent)
    with _new_folder(out) as unfinished:
        yield unfinished
        _finish_all(unfinished)
        if out.exists():
            remove_unfinished(out)
            out.rmdir()  # it is empty, and in Windows no folder takes the place of another
        os.replace(unfinished, out)
        sync(out.parent)


def make_folder(folder: Path) -> None:
    """Make the folder, and those that it lies in, so that they outlive a power failure."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    is_folder = path.is_dir()
    try:  # reading is enough, but in Windows, which has no descriptors of folders either
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" and not is_folder else os.O_RDONLY)
    except PermissionError:
        if is_folder:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if not is_folder or problem.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path, deep: bool = True) -> None:
    """Remove what a killed process had begun to write in the folder; nothing else may be writing there."""
    for path in list(folder.rglob("*") if deep else folder.iterdir()):
        if is_unfinished(path):
            _remove(path)


def is_unfinished(path: Path) -> bool:
    """Tell whether a process has begun to write it, and has not come to its end."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder, made if it is not there, until the block is done or the process has ended in whatever way.

    Raises SettingsError if another process, or another block of this one, holds it. Where the system or the file system
    has no such locks (Windows, some network drives) nothing is held.
    """
    make_folder(folder)
    descriptor, free = _lock(folder)
    try:
        if not free:
            raise SettingsError(f"{folder} is being written by another process; wait for it, or stop it")
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def check_free(folder: Path, asked: str) -> None:
    """Raise SettingsError unless the folder, which the user gave as `asked`, is new or empty and can be written to.

    What a killed process had begun to write there, and nothing else, counts as empty.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"{asked} {folder}: {there} cannot be written to; name another folder")
    if folder.exists() and (not folder.is_dir() or not all(is_unfinished(path) for path in folder.iterdir())):
        raise SettingsError(f"{asked} {folder} exists and is not empty; name another folder, so that nothing is lost")


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside this one, locked as long as the block runs, and gone afterwards.

    Those that dead processes have left, which nobody holds, make room first.
    """
    for left in list(folder.parent.glob(f".{_escaped(folder.name)}.*{_UNFINISHED}")):
        if left.is_dir() and _is_left_behind(left):
            _remove(left)
    unfinished = _unfinished(folder)
    _remove(unfinished)
    try:
        with held(unfinished):
            yield unfinished
    finally:
        _remove(unfinished)


def _escaped(name: str) -> str:
    """Write the name as a glob pattern that only it matches."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _is_left_behind(folder: Path) -> bool:
    descriptor, free = _lock(folder)
    if descriptor is not None:
        os.close(descriptor)
    return free and descriptor is not None


def _lock(folder: Path) -> tuple[int | None, bool]:
    """Return an open descriptor that holds the folder, None where there are no locks; and whether nobody else holds
    it.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        return None, True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(descriptor)
        return None, not isinstance(problem, BlockingIOError)
    return descriptor, True


def _finish_all(folder: Path) -> None:
    mode = _mode_of_new_files(folder / _UNFINISHED)
    for path in folder.rglob("*"):
        if path.is_file():
            _permit(path, mode)
        sync(path)
    sync(folder)


def _mode_of_new_files(path: Path) -> int:
    """Look up what a new file may be used for: it is made and removed, since reading the umask would change it for
    other threads.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        path.unlink()


def _permit(path: Path, mode: int) -> None:
    """Let the file be used for what `mode` says, and for what it may be used already."""
    now = stat.S_IMODE(path.stat().st_mode)
    if now | mode != now:
        with suppress(PermissionError):  # a link to another user's file
            path.chmod(now | mode)


def _exchange(one: Path, other: Path) -> bool:
    """Give each the other's name in one step, which Linux can on most file systems; False: it was not possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_cwd, exchange = -100, 2
    return rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0


def _put_aside_and_replace(new: Path, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old{_UNFINISHED}")
    _remove(aside)
    os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    _remove(aside)
