"""`inlay train … | head`: who reads a run's output has no part in the run."""

import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both standard streams go into a pipe that nobody reads any more."""
    opened = []
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        opened.append(open(writer, "w", encoding="utf-8"))  # noqa: SIM115
        monkeypatch.setattr(sys, name, opened[-1])
    yield
    for each in opened:
        each.close()


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_run_goes_on_without_readers(flags: list[str], tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        main(["train", tiny_bert, reviews_folder, "--epochs", "1", "--no-forgetting", "--out", str(run), *flags]) == 0
    )
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["methods"], 0), (["methods", "lora", "--json"], 0), (["train", "--help"], 0), (["train", "nowhere", "none"], 2)],
)
def test_the_other_verbs_end_quietly(arguments: list[str], code: int) -> None:
    with suppress(SystemExit):  # of --help
        assert main(arguments) == code
    print("nothing is left that would fail when the process ends")
    sys.stdout.flush()


class _Full(io.RawIOBase):
    """A file on a full disk."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_output_that_is_not_all_there_is_not_taken_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as file:
        full = io.TextIOWrapper(_Full(file.fileno()), encoding="utf-8", write_through=True)  # pyright: ignore
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["methods"]) == 4
        assert "standard output: No space left on device" in capsys.readouterr().err


def test_a_process_that_begins_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["methods"]) == 0
    assert main(["train"]) == 2
    assert sys.stdout is None
