"""What a terminal shows while a verb loads its libraries, and what a run's time begins with."""

import io
import sys
import time
from types import ModuleType

import pytest

import inlay.cli
from inlay.cli import main
from inlay.launch import command, take_command_begin


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put a verb in place of `methods` that says one word."""

    def say(arguments: list[str]) -> int:
        print(*arguments)
        return 0

    module = ModuleType("inlay.cli.methods")
    monkeypatch.setattr(module, "main", say, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_terminal_says_that_a_verb_is_starting_until_it_says_something(
    verb: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourteen seconds of nothing look like a program that hangs."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["methods", "one", "two"]) == 0
    assert terminal.getvalue() == "starting …\r\033[2Kone two\n"


def test_what_says_nothing_leaves_nothing_behind(verb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(verb, "main", lambda arguments: 0)
    assert main(["methods"]) == 0
    assert terminal.getvalue() == "starting …\r\033[2K"


def test_a_terminal_that_cannot_erase_shows_none_of_it(verb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(verb, "main", lambda arguments: 0)
    assert main(["methods"]) == 0
    assert terminal.getvalue() == ""


def test_programs_and_files_hear_nothing_of_it(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "one"]) == 0
    assert capsys.readouterr() == ("one\n", "")


def test_the_first_run_of_a_command_begins_with_the_command() -> None:
    before = time.perf_counter()
    with command():
        after = time.perf_counter()
        assert before <= take_command_begin() <= after
        assert take_command_begin() > after  # a second run
    with command():
        pass
    left = time.perf_counter()
    assert take_command_begin() >= left  # from Python


def test_every_verb_is_such_a_command(verb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    monkeypatch.setattr(verb, "main", lambda arguments: began.append(take_command_begin()) or 0)
    before = time.perf_counter()
    assert inlay.cli.main(["methods"]) == 0
    assert before <= began[0] <= time.perf_counter()
    assert take_command_begin() > began[0]
