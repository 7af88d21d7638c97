"""What is in a file from outside is a value or a sentence about the file, whatever is in it."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inlay.errors import CheckpointError, DataError, SettingsError
from inlay.formats import read

BAD_TEXTS = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "binary": bytes(range(256)),
    "latin-1": '{"a": "ä"}'.encode("latin-1"),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a character": b'{"a": "\\ud800"}',
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_json_that_is_none_is_a_sentence_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_bytes(BAD_TEXTS[name])
    with pytest.raises(CheckpointError, match=r"given\.json: an adapter's settings that cannot be read \(.+\); copy"):
        read.read_json(path, "an adapter's settings")


@pytest.mark.parametrize(
    "text", ["a: [", "{[1]: 2}", "a: 2020-13-45", "a: !!python/name:os.system x", "&a [*b]", "{" * 9999]
)
def test_yaml_that_is_none_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"run\.yaml: settings that cannot be read"):
        read.read_yaml(path, "settings", error=SettingsError)


def test_a_mark_of_byte_order_and_old_numbers_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"loss": NaN, "emoji": "\\ud83d\\ude00"}')
    found = read.read_object(tmp_path / "a.json", "a summary")
    assert found["loss"] != found["loss"]
    assert found["emoji"] == "😀"


def test_json_of_another_kind_than_an_object_is_refused(tmp_path: Path) -> None:
    for text, kind in (("[]", "a list"), ("3", "a number"), ("null", "null"), ('"x"', "a text")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match=f"a summary must be a JSON object, and this is {kind}"):
            read.read_object(tmp_path / "a.json", "a summary", error=DataError)


def test_lines_of_json_are_told_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a"')
    with pytest.raises(CheckpointError, match=r"a\.jsonl:3: a row"):
        list(read.read_json_lines(tmp_path / "a.jsonl", "a row"))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, found in (("pipe", "something else"), ("", "something else"), ("none", "no such file")):
        with pytest.raises(CheckpointError, match=f"and {found}|{found}"):
            read.read_text(tmp_path / name, "a text")


def test_the_size_of_a_text_is_limited_by_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    path.write_text(json.dumps("x" * (1 << 20)))
    assert len(read.read_json(path, "a text")) == 1 << 20
    monkeypatch.setenv(read.LARGEST, "1")
    with pytest.raises(CheckpointError, match="1048578 bytes, too many .* at most 1 MiB .* INLAY_LARGEST_FILE"):
        read.read_json(path, "a text")
    for wrong in ("0", "-1", "many", "1e3", ""):
        monkeypatch.setenv(read.LARGEST, wrong)
        with pytest.raises(SettingsError, match="whole number of MiB"):
            read.read_json(path, "a text")


def _file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.int8)}, path, metadata={"of": "x"})
    return path


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    stored, metadata = read.header(_file(tmp_path))
    assert stored == {"a": read.Stored((3, 4), "F32"), "b": read.Stored((5,), "I8")}
    assert metadata == {"of": "x"}
    assert read.tensors(_file(tmp_path), wanted=lambda _, of: of.dtype == "F32").keys() == {"a"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"F32"', b'"F99"'),
        lambda data: data.replace(b"[3,4]", b"[3,5]"),
        lambda data: data.replace(b"[3,4]", b"[-3,4]"),
    ],
)
def test_a_damaged_safetensors_file_is_a_sentence(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = _file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    for reader in (read.header, read.tensors):
        with pytest.raises(CheckpointError, match=r"a\.safetensors: a safetensors file of \d+ bytes that cannot"):
            reader(path)


class _Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2)}, "good.bin")
    assert read.pickled_tensors(Path("good.bin"), "weights", todo="").keys() == {"a"}
    torch.save({"a": _Code()}, "code.bin")
    Path("raw.bin").write_bytes(pickle.dumps(_Code()))
    torch.save([torch.ones(2)], "list.bin")
    torch.save({1: torch.ones(2)}, "number.bin")
    for name in ("code", "raw", "list", "number"):
        with pytest.raises(CheckpointError, match=f"{name}.bin: weights .*something else.*; ask its maker"):
            read.pickled_tensors(Path(f"{name}.bin"), "weights", todo="ask its maker")
    assert not Path("ran").exists()


def test_a_lack_of_memory_and_an_interrupt_stay_what_they_are() -> None:
    no_room = RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
    for problem in (MemoryError(), no_room, torch.OutOfMemoryError("out of memory"), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(problem)) as raised, read.guarded("a", "b"):
            raise problem
        assert raised.value is problem
