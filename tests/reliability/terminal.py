"""A terminal that records what it is sent."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from inlay.cli import main


class Terminal:
    """A pseudo-terminal in place of the standard streams, and what it was sent."""

    def __init__(self) -> None:
        self.sent = b""

    @contextmanager
    def connected(self) -> Iterator[None]:
        ours, theirs = pty.openpty()
        reader = threading.Thread(target=self._read, args=(ours,))
        reader.start()
        before = sys.stdout, sys.stderr
        streams = [os.fdopen(os.dup(theirs), "w", encoding="utf-8") for _ in before]
        os.close(theirs)
        sys.stdout, sys.stderr = streams
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in streams:
                stream.close()
            reader.join()
            os.close(ours)

    def _read(self, descriptor: int) -> None:
        try:
            while data := os.read(descriptor, 65_536):
                self.sent += data
        except OSError:  # the other end is closed
            return


def recorded(*arguments: str) -> tuple[int, str]:
    terminal = Terminal()
    with terminal.connected():
        code = main(arguments)
    return code, terminal.sent.decode("utf-8")


def recorded_whole(*arguments: str) -> tuple[int, str]:
    """What a process of its own sends, and those that it starts."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "inlay", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        terminal = Terminal()
        terminal._read(ours)
    os.close(ours)
    return process.returncode, terminal.sent.decode("utf-8")
