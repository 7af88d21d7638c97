"""Standard output and standard error that outlive their readers: `| head`, a closed terminal, a full disk."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class ReaderGone(BaseException):
    """Nobody reads standard output any more, and there is nothing else to do than to write it."""


@contextmanager
def outliving_readers(goes_on: bool = True) -> Iterator[None]:
    """Lose what is written to a closed stream in here, and nothing else.

    If nothing `goes_on` without a reader of standard output, ReaderGone is raised instead, and OSError where the output
    is not all there for another reason, such as a full disk.
    """
    before = sys.stdout, sys.stderr
    sys.stderr = _outliving(sys.stderr, goes_on=True)
    sys.stdout = _outliving(sys.stdout, goes_on)
    try:
        yield
        sys.stdout.flush()
    finally:
        now = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = before
        for own, stream in zip(now, before, strict=True):
            with suppress(OSError, ValueError, ReaderGone):
                own.flush() if stream is not None else own.close()


@contextmanager
def silent(holds: bool) -> Iterator[None]:
    """Lose all that Python writes in here, if that holds: another process speaks for this one."""
    if not holds:
        yield
        return
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Outliving:
    """A text stream whose descriptor leads nowhere once it cannot be written any more."""

    def __init__(self, stream: TextIO, descriptor: int, goes_on: bool):
        self._stream, self._descriptor, self._goes_on = stream, descriptor, goes_on

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as problem:
            self._lead_nowhere(problem)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as problem:
            self._lead_nowhere(problem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lead_nowhere(self, problem: OSError) -> None:
        """Send what the stream has not got rid of there too, or it would fail again when the process ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        reader_gone = problem.errno in (errno.EPIPE, errno.EIO)  # EIO is a terminal's that was closed
        if not self._goes_on:
            raise ReaderGone if reader_gone else OSError(problem.errno, problem.strerror, "standard output")
        if not reader_gone:
            print(f"inlay: standard output or error: {problem.strerror}; this goes on without it", file=sys.stderr)


def _outliving(stream: TextIO | None, goes_on: bool) -> Any:
    if stream is None:  # the process began with it closed
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        return _Outliving(stream, stream.fileno(), goes_on)
    except (OSError, ValueError, AttributeError):  # it is something in memory
        return stream
