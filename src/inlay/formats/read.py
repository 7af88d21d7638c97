"""Files from outside, each kind read in one guarded way: what is in them is never a traceback, nor runs any code.

Whatever goes wrong is an error that names the file, says what is wrong with it and what to do. A file of text is read
up to a size, so that one that pretends to be a configuration cannot take the memory; INLAY_LARGEST_FILE (in MiB) sets
it. Tensors are mapped, not read.
"""

import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, InlayError, InvalidRequest, SettingsError
from ..machine import out_of_memory
from ..outside import NO_TEXT

LARGEST = "INLAY_LARGEST_FILE"  # environment variable: MiB of a file of settings or of text
_LARGEST_MIB = 16
_AGAIN = "copy or make it again"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as the file's header describes it."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, BF16, I64, …


@contextmanager
def guarded(
    subject: object, what: str, *, todo: str = _AGAIN, error: type[InvalidRequest] = CheckpointError
) -> Iterator[None]:
    """Turn whatever reading `subject` as `what` raises into `error`, but for Inlay's own errors and a lack of memory.

    Nothing less will do: what a parser raises over a damaged file is not documented, and differs by release.
    """
    try:
        yield
    except InlayError:
        raise
    except BaseException as problem:
        if out_of_memory(problem) is not None:
            raise
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":  # Rust's, of tokenizers
            raise
        raise error(f"{subject}: {what} that cannot be read ({reason(problem)}); {todo}") from None


def reason(problem: BaseException) -> str:
    """Say in a line what went wrong: its own first line, or its kind if it says nothing or only a name."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    first = str(problem).strip().partition("\n")[0]
    first = first if len(first) <= 300 else first[:300] + "…"
    kind = type(problem).__name__
    return f"{kind}: {first}" if first and " " not in first else first or kind


def read_text(path: Path, what: str, *, error: type[InvalidRequest] = CheckpointError) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    with guarded(path, what, error=error):
        if not path.is_file():  # a folder, or a pipe, which would be waited for
            found = "something else than a file is there" if path.exists() else "there is no such file"
            raise error(f"{path}: {what} is needed, and {found}; {_AGAIN}")
        most = _largest()
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise error(
                f"{path}: {path.stat().st_size} bytes, too many for {what}; at most {most >> 20} MiB are read, which "
                f"the environment variable {LARGEST} sets"
            )
        return data.decode("utf-8-sig")


def read_json(path: Path, what: str, *, error: type[InvalidRequest] = CheckpointError) -> Any:
    """Return any JSON value. NaN and infinities, which are no JSON but were written once, are read as such."""
    return parse_json(read_text(path, what, error=error), path, what, error=error)


def read_object(path: Path, what: str, *, error: type[InvalidRequest] = CheckpointError) -> dict[str, Any]:
    """Read a JSON object. Raises `error` for any other value."""
    value = read_json(path, what, error=error)
    if not isinstance(value, dict):
        raise error(f"{path}: {what} must be a JSON object, and this is {_kind(value)}; {_AGAIN}")
    return value


def read_json_lines(path: Path, what: str) -> Iterator[Any]:
    """Yield one JSON value of each line that is not empty. Raises CheckpointError for what is no JSON."""
    for number, line in enumerate(read_text(path, what).split("\n"), 1):  # in texts there are others
        if line.strip():
            yield parse_json(line, f"{path}:{number}", what)


def parse_json(text: str, subject: object, what: str, *, error: type[InvalidRequest] = CheckpointError) -> Any:
    """Parse `text`, which is from `subject`. Raises `error` for what is no JSON, or holds half of a character."""
    with guarded(subject, what, error=error):
        if NO_TEXT.search(text):
            raise ValueError("it has half of a character")
        value = json.loads(text)
        if "\\u" in text and NO_TEXT.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("it has half of a character, written as an escape")
        return value


def read_yaml(path: Path, what: str, *, error: type[InvalidRequest] = CheckpointError) -> Any:
    """Return any value of YAML's plain kinds; tags that would make other objects are refused."""
    text = read_text(path, what, error=error)
    with guarded(path, what, error=error):
        return yaml.safe_load(text)


def header(path: Path, what: str = "a safetensors file") -> tuple[dict[str, Stored], dict[str, str]]:
    """Return what a safetensors file says of its tensors, and its metadata; no tensor is touched."""
    with _opened(path, what) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {k: Stored(tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}, file.metadata() or {}


def tensors(
    path: Path, what: str = "a safetensors file", wanted: Callable[[str, Stored], bool] = lambda _, __: True
) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or those `wanted`; mapped, so that only what is used is read."""
    stored, _ = header(path, what)
    with _opened(path, what) as file:
        return {key: file.get_tensor(key) for key, of in stored.items() if wanted(key, of)}


def pickled_tensors(path: Path, what: str, *, todo: str) -> dict[str, Tensor]:
    """Return the tensors by name in a file of torch.save. It is a pickle, which could hold code, and none is run."""
    with guarded(path, f"{what} of {_size(path)}", todo=todo):
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        try:
            with warnings.catch_warnings(action="ignore"):  # of a protocol that torch does not write
                found: object = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's own text says how to read it all the same, which would run code
            raise ValueError("it holds something else than tensors, or is damaged") from None
    if not _are_named_tensors(found):
        raise CheckpointError(f"{path}: {what} holds tensors by name, and this something else; {todo}")
    return found


@contextmanager
def _opened(path: Path, what: str) -> Iterator[safe_open]:
    with guarded(path, f"{what} of {_size(path)}"):
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        with safe_open(path, framework="pt") as file:
            yield file


def _are_named_tensors(found: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items())


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes"
    except OSError:
        return "unknown size"


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _largest() -> int:
    asked = os.environ.get(LARGEST)
    if asked is None:
        return _LARGEST_MIB << 20
    if not re.fullmatch(r"[1-9][0-9]{0,6}", asked, re.ASCII):
        raise SettingsError(f"the environment variable {LARGEST} is {asked!r}; it must be a whole number of MiB")
    return int(asked) << 20
