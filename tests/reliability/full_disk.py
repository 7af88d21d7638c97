"""A disk that is full from a given write on, or for that one write alone: whoever asks, the system answers ENOSPC.

A write is a file opened for writing, each piece written to it, a new folder, a rename, and bringing any of them to the
disk. Libraries that write without Python (safetensors, tokenizers) fail in their own words after half of the file.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import transformers
from safetensors import SafetensorError

from inlay.formats import files

_RUST = "No space left on device (os error 28)"


@dataclass
class FullDisk:
    """Counts the writes below `folder`; that with the number `first` fails, and all after it if it is `for_good`."""

    folder: Path
    first: int | None = None
    for_good: bool = False
    names: list[str] = field(default_factory=list)  # of the writes so far

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._opening(module.open))
        for name in ("mkdir", "replace", "rename", "link", "fsync", "truncate"):
            monkeypatch.setattr(os, name, self._calling(name, getattr(os, name)))
        monkeypatch.setattr(files, "_exchange", self._exchanging(files._exchange))
        monkeypatch.setattr(safetensors.torch, "serialize_file", self._serializing(safetensors.torch.serialize_file))
        tokenizer = transformers.PreTrainedTokenizerBase
        monkeypatch.setattr(tokenizer, "save_pretrained", self._saving(tokenizer.save_pretrained))

    def fails(self, what: str, path: Any) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not os.fspath(path).startswith(str(self.folder)):
            return False
        self.names.append(f"{what} {os.path.relpath(path, self.folder)}")
        number = len(self.names) - 1
        return self.first is not None and (number >= self.first if self.for_good else number == self.first)

    def _opening(self, opens: Any) -> Callable[..., Any]:
        def full(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if isinstance(path, int) or not set(mode) & set("wax+"):
                return opens(path, mode, *more, **named)
            if self.fails("open", path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return _File(opens(path, mode, *more, **named), path, self)

        return full

    def _calling(self, name: str, call: Any) -> Callable[..., Any]:
        def full(path: Any, *more: Any, **named: Any) -> Any:
            takes_room = name != "truncate" and not (name == "mkdir" and os.path.isdir(path))
            if takes_room and self.fails(name, path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return call(path, *more, **named)

        return full

    def _exchanging(self, exchange: Any) -> Callable[..., bool]:
        return lambda one, other: not self.fails("exchange", other) and exchange(one, other)

    def _serializing(self, serialize: Any) -> Callable[..., Any]:
        def full(tensors: Any, path: Any, *more: Any, **named: Any) -> None:
            fails = self.fails("tensors", path)
            serialize(tensors, path, *more, **named)
            if fails:
                os.truncate(path, os.path.getsize(path) // 2)
                raise SafetensorError(f"Error while serializing: I/O error: {_RUST}")

        return full

    def _saving(self, save: Any) -> Callable[..., Any]:
        def full(tokenizer: Any, folder: Any, *more: Any, **named: Any) -> Any:
            if self.fails("tokenizer", folder):
                raise Exception(_RUST)  # noqa: TRY002  (as tokenizers does)
            return save(tokenizer, folder, *more, **named)

        return full


class _File:
    """A file of which a piece, or half of one, may not get to the disk."""

    def __init__(self, file: Any, path: Any, disk: FullDisk):
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: Any) -> int:
        if self._disk.fails("write", self._path):
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it: without the path
        return self._file.write(data)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
