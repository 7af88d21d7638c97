"""Damage to files, drawn by hypothesis: to their bytes, and to what JSON and safetensors in them say."""

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 10_000_000, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "\0", "\ud83d\ude00", "../..", "someone/a-model", "/dev/zero", "(", "(.+)+$", "a" * 300),
    *([], {}, [[]], [1, 2], ["q_proj"], {"a": 1}, [None], {"": ""}, "float32", "LORA", "all-linear", "builtin:minilm"),
]


def _walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value))) if _is_list(value) else []
    return [path, *(found for key in keys[:40] for found in _walk(value[key], (*path, key)))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


@st.composite
def json_edits(draw: st.DrawFn, text: str) -> bytes:
    """The JSON text with one to three of its values replaced, removed, renamed or put elsewhere."""
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        paths = _walk(value)
        path = draw(st.sampled_from(paths[1:] or paths))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "swap", "scale"]))
        new = copy.deepcopy(draw(st.sampled_from(HOSTILE)))  # which the next edit may change
        if not path:
            return json.dumps(new).encode()
        at = value
        for key in path[:-1]:
            at = at[key]
        key = path[-1]
        if kind == "remove":
            del at[key]
        elif kind == "rename" and isinstance(at, dict):
            at[draw(st.sampled_from(["x", "", f"{key}x", "r", "weight"]))] = at.pop(key)
        elif kind == "swap":
            other: Any = value
            for part in draw(st.sampled_from(paths[1:])):
                other = other[part] if isinstance(other, dict | list) and _has(other, part) else other
            at[key] = json.loads(json.dumps(other))
        elif kind == "scale" and isinstance(at[key], int | float) and abs(at[key]) < 1e9:
            at[key] = at[key] * draw(st.sampled_from([-1, 0, 2, 1000]))
        else:
            at[key] = new
        if not isinstance(value, dict | list) or not value:
            break
    return json.dumps(value).encode()


def _has(value: Any, key: Any) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)


@st.composite
def byte_edits(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes cut, with flipped bits, or with a piece put in, taken out or repeated."""
    if not data:
        return b"\0"
    kind, at = draw(st.sampled_from(["cut", "flip", "flip", "put", "take", "repeat"])), draw(_places(len(data)))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        flipped = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            flipped[draw(_places(len(data)))] ^= 1 << draw(st.integers(0, 7))
        return bytes(flipped)
    piece = draw(st.sampled_from([b"\0", b"\xff" * 8, b"{", b'"', b"\xed\xa0\x80", b"[" * 3000, b"9" * 5000]))
    if kind == "put":
        return data[:at] + piece + data[at:]
    if kind == "take":
        return data[:at] + data[at + draw(st.integers(1, 64)) :]
    return data[:at] + data[max(0, at - 64) : at] + data[at:]


def _places(length: int) -> st.SearchStrategy[int]:
    """Mostly near the beginning, where headers are."""
    return st.one_of(st.integers(0, min(length, 600) - 1), st.integers(0, length - 1))


@st.composite
def tensor_edits(draw: st.DrawFn, data: bytes) -> bytes:
    """A safetensors file whose header says something else, or whose numbers are others."""
    size = struct.unpack("<Q", data[:8])[0]
    head, numbers = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    name = draw(st.sampled_from(sorted(set(head) - {"__metadata__"})))
    entry = head[name]
    match draw(st.sampled_from(["dtype", "shape", "name", "drop", "numbers", "numbers", "json"])):
        case "dtype":
            entry["dtype"] = draw(
                st.sampled_from(["F32", "I32", "U32", "F64", "I64", "BF16", "F16", "BOOL", "C64", "F8_E4M3", "X"])
            )
            _refit(head, name, entry, numbers)
        case "shape":
            entry["shape"] = draw(
                st.sampled_from([[], [1], entry["shape"][::-1], [1, *entry["shape"]], [2**40, 2**40], [-1]])
            )
            if draw(st.booleans()):
                _refit(head, name, entry, numbers)
        case "name":
            head[draw(st.sampled_from([f"{name}.x", name[:-1], name.replace("0", "1"), "", "\ud83d\ude00"]))] = (
                head.pop(name)
            )
        case "drop":
            del head[name]
            if draw(st.booleans()):
                _close(head, numbers)
        case "numbers":
            begin, end = entry["data_offsets"]
            value = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, 0.0]))
            if end - begin >= 4:
                at = begin + 4 * draw(st.integers(0, (end - begin) // 4 - 1))
                numbers[at : at + 4] = struct.pack("<f", value)
        case _:
            edited = draw(json_edits(json.dumps(head)))
            return struct.pack("<Q", len(edited)) + edited + bytes(numbers)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + bytes(numbers)


def _refit(head: dict[str, Any], name: str, entry: dict[str, Any], numbers: bytearray) -> None:
    """Give the tensor as many bytes as its new header asks for, at the end, where that is little."""
    width = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2}.get(entry["dtype"], 1)
    count = 1
    for size in entry["shape"]:
        count *= size
    if 0 <= count < 1_000_000:
        head[name] = entry | {"data_offsets": [len(numbers), len(numbers) + count * width]}
        numbers += b"\1" * (count * width)
        _close(head, numbers)


def _close(head: dict[str, Any], numbers: bytearray) -> None:
    """Leave no gap between the tensors, which the format does not allow."""
    kept = bytearray()
    for name, entry in sorted(
        ((n, e) for n, e in head.items() if n != "__metadata__"), key=lambda p: p[1]["data_offsets"]
    ):
        begin, end = entry["data_offsets"]
        head[name] = entry | {"data_offsets": [len(kept), len(kept) + end - begin]}
        kept += numbers[begin:end]
    numbers[:] = kept


def of_file(path: Path) -> st.SearchStrategy[bytes]:
    """Damage to the file that fits its kind."""
    data = path.read_bytes()
    kinds: list[Callable[[], st.SearchStrategy[bytes]]] = [lambda: byte_edits(data)]
    if path.suffix == ".json":
        kinds += [lambda: json_edits(data.decode())] * 3
    elif path.suffix == ".safetensors" and len(data) > 8:
        kinds += [lambda: tensor_edits(data)] * 3
    return st.one_of([kind() for kind in kinds])
