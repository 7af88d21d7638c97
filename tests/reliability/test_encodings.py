"""What a screen shows where the output has another encoding than UTF-8."""

import io
import json
import sys
from contextlib import suppress
from typing import Any

import pytest

from inlay.cli import main
from inlay.cli.screen import Screen, print_json, screens

from .hostile_text import EVIL, unsafe


def written(encoding: str, text: str) -> str:
    buffer = io.BytesIO()
    stream: Any = Screen(io.TextIOWrapper(buffer, encoding=encoding))
    print(text, file=stream, end="", flush=True)
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "é – █ → 漢 😀 \\udcff"),
        ("latin-1", "é - # > \\u6f22 \\U0001f600 \\udcff"),
        ("cp1252", "é – # > \\u6f22 \\U0001f600 \\udcff"),
        ("ascii", "\\xe9 - # > \\u6f22 \\U0001f600 \\udcff"),
    ],
)
def test_any_encoding_shows_any_text(encoding: str, expected: str) -> None:
    assert written(encoding, "é – █ → 漢 😀 \udcff") == expected


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "ascii"])
def test_json_means_the_same_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    value = {f"é漢😀{EVIL}\udcff": [EVIL, 1.5, None]}
    with screens():
        print_json(value)
    text = buffer.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert unsafe(text) == set()
    assert ("é" in text) == (encoding != "ascii")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_verb_can_be_read_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch, evil_file: str) -> None:
    for arguments in (["methods", "lora"], ["data", evil_file], ["data", evil_file, "--json"], ["train", "--help"]):
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
        with suppress(SystemExit):  # after help
            assert main(arguments) == 0
        assert "\ufffd" not in buffer.getvalue().decode(encoding)
