"""Files and folders are written whole or not at all, whatever dead processes have left."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inlay.errors import SettingsError
from inlay.formats import files
from inlay.formats.files import (
    check_free,
    copy_whole,
    digest_of,
    folder_written_whole,
    held,
    remove_unfinished,
    replace_folder,
    write_json,
    write_text,
    write_whole,
)

LEFT = f".{{}}.{os.getpid()}.unfinished"  # the name that a process with this number gave it before it died


def fill(folder: Path, text: str) -> None:
    (folder / "one").write_text(text)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "two").write_text(text)


def test_json_is_valid_whatever_the_numbers_and_names_are(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jsonl")
    value = {"loss": float("nan"), "of": [float("inf"), (1.5, -float("inf"))], "file": odd, "name": "Größe"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read == {"loss": None, "of": [None, [1.5, None]], "file": odd, "name": "Größe"}
    assert "Größe" in text


@pytest.mark.parametrize("left", ["file", "folder"])
def test_what_a_dead_process_with_the_same_number_left_is_not_in_the_way(left: str, tmp_path: Path) -> None:
    for name in ("x.txt", "folder", "out"):
        stale = tmp_path / LEFT.format(name)
        fill(stale_folder(stale), "old") if left == "folder" else stale.write_text("old")
    write_text(tmp_path / "x.txt", "new")
    replace_folder(tmp_path / "folder", lambda folder: fill(folder, "new"))
    with folder_written_whole(tmp_path / "out") as folder:
        fill(folder, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out", "x.txt"]
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"new"}


def stale_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_folders_that_dead_processes_began_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, living, other = (tmp_path / f".{name}.unfinished" for name in ("out.1", "out.2", "out2.3"))
    for folder in (dead, living, other):
        folder.mkdir()
    with held(living), folder_written_whole(tmp_path / "out"):
        assert not dead.exists()
        assert living.exists()
        assert other.exists()


def test_a_folder_with_nothing_but_unfinished_files_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".run.yaml.1.unfinished").write_text("mod")
    (out / ".adapter.1.unfinished").mkdir()
    check_free(out, "OUT")
    with folder_written_whole(out) as folder:
        fill(folder, "new")
    assert sorted(path.name for path in out.iterdir()) == ["deeper", "one"]
    (out / ".adapter.1.unfinished").mkdir()
    (out / ".adapter.1.unfinished" / "x").write_text("x")
    with pytest.raises(SettingsError, match="not empty"):
        check_free(out, "OUT")
    remove_unfinished(out)
    assert sorted(path.name for path in out.iterdir()) == ["deeper", "one"]


def test_a_place_that_cannot_be_written_to_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # the rights of root know no such place
    check_free(tmp_path.parent / "beside", "OUT")
    with pytest.raises(SettingsError, match=f"OUT .*out: {tmp_path} cannot be written to"):
        check_free(tmp_path / "deep" / "out", "OUT")


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    folder = tmp_path / "adapter"
    replace_folder(folder, lambda folder: fill(folder, "old"))
    (folder / "of before").write_text("old")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fails(folder: Path) -> None:
        fill(folder, "new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(folder, fails)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    replace_folder(folder, lambda folder: fill(folder, "new"))
    assert sorted(path.name for path in folder.iterdir()) == ["deeper", "one"]
    assert {path.read_text() for path in folder.rglob("*") if path.is_file()} == {"new"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two folders cannot be exchanged in one step")
def test_a_reader_always_finds_a_whole_folder(tmp_path: Path) -> None:
    """Another process replaces it as fast as it can."""
    folder = tmp_path / "adapter"
    replace_folder(folder, lambda folder: fill(folder, "x"))
    replacing = (
        "import sys; from pathlib import Path; from inlay.formats.files import replace_folder\n"
        "print(flush=True)\n"
        "while True: replace_folder(Path(sys.argv[1]), lambda f: [(f / n).write_text('x' * 99) for n in ('one', 'b')])"
    )
    with subprocess.Popen([sys.executable, "-c", replacing, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = {(folder / "one").exists() for _ in range(20_000)}
        process.kill()
    assert found == {True}


def test_when_the_second_rename_fails_the_folder_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    folder, rename = tmp_path / "adapter", os.replace
    replace_folder(folder, lambda folder: fill(folder, "old"))

    def fails(source: Path, to: Path) -> None:
        if to == folder and "old" not in Path(source).name:
            raise OSError(5, "Input/output error")
        rename(source, to)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        replace_folder(folder, lambda folder: fill(folder, "new"))
    assert (folder / "one").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_files_are_on_the_disk_before_they_are_renamed_and_names_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Any]] = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def renamed(source: Path, to: Path) -> None:
        done.append(("rename", os.stat(source).st_ino))
        rename(source, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    path = tmp_path / "new" / "x.txt"
    write_text(path, "x")
    file, folder, above = (each.stat().st_ino for each in (path, path.parent, tmp_path))
    assert done == [("sync", above), ("sync", file), ("rename", file), ("sync", folder)]
    done.clear()
    replace_folder(tmp_path / "adapter", lambda folder: fill(folder, "x"))
    at = done.index(("rename", (tmp_path / "adapter").stat().st_ino))
    inside = {each.stat().st_ino for each in (tmp_path / "adapter", *(tmp_path / "adapter").rglob("*"))}
    assert inside <= {number for _, number in done[:at]}
    assert done[at + 1 :] == [("sync", above)]


def test_a_file_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fails(unfinished: Path) -> None:
        unfinished.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_outlives_what_takes_the_place_of_the_first(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    first, second = tmp_path / "first", tmp_path / "second"
    write_text(first, "old")
    copy_whole(first, second)
    write_text(first, "new")
    assert (first.read_text(), second.read_text()) == ("new", "old")
    assert digest_of(second) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        held(tmp_path / "run"),
        pytest.raises(SettingsError, match="being written by another process"),
        held(tmp_path / "run"),
    ):
        pass
    with held(tmp_path / "run"):
        pass


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_gives_whoever_wrote_them(
    umask: int, mode: int, tmp_path: Path
) -> None:
    def write(path: Path) -> None:
        save_file({"x": torch.zeros(1)}, path)
        path.chmod(0o600)  # as some versions of safetensors do

    def write_two(folder: Path) -> None:
        (folder / "deeper").mkdir()
        write(folder / "one")
        write(folder / "deeper" / "two")

    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.safetensors", write)
        copy_whole(tmp_path / "a.safetensors", tmp_path / "copy.safetensors")
        write_text(tmp_path / "a.txt", "text")
        replace_folder(tmp_path / "replaced", write_two)
        with folder_written_whole(tmp_path / "whole") as folder:
            write_two(folder)
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == dict.fromkeys(("a.safetensors", "copy.safetensors", "a.txt", "one", "two"), mode)
