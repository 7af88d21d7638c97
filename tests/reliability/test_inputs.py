"""What is given as an input: a text, a path or standard input, which are told apart and told of by name."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.data.inputs import read_inputs
from inlay.errors import DataError

from ..tiny_models import reviews, write_rows


@pytest.fixture(scope="module")
def run(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    rows = write_rows(folder / "rows.jsonl", reviews(60))
    out = str(folder / "run")
    assert main(["train", tiny_bert, rows, "--out", out, "--epochs", "1", "--no-forgetting"]) == 0
    return out


def test_standard_input_that_is_no_text_is_told_by_its_line(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "\ufeffa film\n\n".encode() + b"caf\xe9 film\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    assert main(["predict", run, "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[0])["text"] == "a film"
    assert "line 3 of standard input is not UTF-8: byte 0xe9 after 'caf'" in captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a film " * 40, None),
        ("a film " * 4000, None),
        ("x" * 300, None),
        ("a\nfilm", None),
        ("~ film", None),
        ("/" * 5000 + "a b", None),
        ("caf\udce9", "the text is not UTF-8: byte 0xe9"),
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("~", "this is a folder"),
        ("/", "this is a folder"),
        (os.devnull, "neither a file nor a folder"),
        ("none.jsonl", "no such file"),
        ("x" * 300 + ".csv", "file name too long"),
        ("a\0.csv", "it cannot have a NUL"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_may_be_a_path_or_a_text(
    text: str, message: str | None, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", run, text]) == (0 if message is None else 2)
    assert (message or "%") in "".join(capsys.readouterr())


def test_a_text_in_a_closed_folder_is_told(run: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def closed(path: Path, **_: Any) -> Any:
        if str(path).startswith("/closed/"):
            raise PermissionError(13, "Permission denied")
        return os.stat(path)

    monkeypatch.setattr(Path, "stat", closed)
    assert main(["predict", run, "/closed/note"]) == 2
    assert main(["predict", "/closed/run", "a film"]) == 2
    assert main(["train", "builtin:minilm", "/closed/rows.csv"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "may not be entered" in told[0]
    assert all("permission denied" in line for line in told[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "x" * 300, "builtin:tickets"),
        ("train", "builtin:minilm", "x" * 300),
        ("train", "builtin:minilm", "builtin:tickets", "--out", "x" * 300),
        ("train", "builtin:minilm", "builtin:tickets", "--retain", "x" * 300),
        ("train", "builtin:minilm", "builtin:tickets", "--config", "x" * 300),
        ("compare", "builtin:minilm", "builtin:tickets", "--out", "x" * 300),
        *((verb, "x" * 300) for verb in ("eval", "predict", "rank", "resume", "doctor", "data")),
        ("merge", "x" * 300, "out"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "(300 letters): no path that can be used: file name too long" in capsys.readouterr().err


def test_home_is_understood_where_a_shell_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert read_inputs("~/a.txt").texts({"text": "text"}) == [("one", None), ("two", None)]
    with pytest.raises(DataError, match="no such file"):
        read_inputs("~/b.txt").texts({"text": "text"})
