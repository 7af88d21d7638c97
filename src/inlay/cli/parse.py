"""From arguments to a verb's dataclass, by tyro, with one way to fail: a SettingsError."""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from types import MappingProxyType
from typing import TypeVar, get_args, get_origin

import tyro

from ..errors import InlayError, SettingsError
from ..methods.explained import field_texts
from ..show.lines import fitted
from .screen import own_text

CommandT = TypeVar("CommandT")
_NO_PROSE = ("╭", "│", "╰", " ", "\x1b")


class _Held(io.StringIO):
    """Text for standard output, with the colours and the letters that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self._out = sys.stdout

    @property
    def encoding(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._out.encoding

    def isatty(self) -> bool:
        return self._out.isatty()


def parse(
    command: type[CommandT],
    arguments: Sequence[str],
    verb: str,
    beneath: Sequence[str] = (),
    description: str | None = None,
) -> CommandT:
    """Return an instance of the dataclass `command`. Prints the help, which begins with the `description` or else the
    class's docstring, and exits with 0 if that is asked for.

    The arguments win over those `beneath`. Raises SettingsError for a flag that is among them twice.
    """
    _check_given_once(arguments)
    if not {"-h", "--help"}.isdisjoint(arguments):
        _give_help(get_origin(command) or command, *get_args(command))
    output, help = io.StringIO(), _Held()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(help):
            return tyro.cli(
                command,
                args=[*beneath, *arguments],
                prog=f"inlay {verb}",
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            with own_text():  # the help is ours, and has colours
                print(_broken(help.getvalue()), end="")
            raise
        own = _of_a_dataclass(stop)
        said = _sentence(output.getvalue(), verb) if own is None else f"{own}; see inlay {verb} --help"
        raise SettingsError(said) from None


def take(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Return the value of `flag` and the other arguments. Raises SettingsError if it is there without a value, or
    twice.
    """
    found, rest, i = [], [], 0
    while i < len(arguments):
        argument = arguments[i]
        if argument == flag:
            if i + 1 == len(arguments) or arguments[i + 1].startswith("-"):
                raise SettingsError(f"{flag} needs a value")
            found.append(arguments[i + 1])
            i += 1
        elif argument.startswith(flag + "="):
            found.append(argument.removeprefix(flag + "="))
        else:
            rest.append(argument)
        i += 1
    if len(found) > 1:
        raise _given_twice(flag, found)
    return (found[0] if found else None), rest


def _broken(help: str) -> str:
    """Break the lines of the description, which tyro leaves as long as they are; others have boxes or colours."""
    width = get_terminal_size().columns
    lines = help.split("\n")
    return "\n".join(line if line.startswith(_NO_PROSE) else fitted(line, width) for line in lines)


def _give_help(*kinds: object) -> None:
    """Write each field's text into its metadata, where tyro looks first: in those that it finds by itself it keeps the
    line breaks of our source."""
    for kind in kinds:
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            continue
        texts = field_texts(kind)
        for field in dataclasses.fields(kind):
            field.metadata = MappingProxyType({**field.metadata, "help": texts.get(field.name)})
            _give_help(field.type)


def _check_given_once(arguments: Sequence[str]) -> None:
    """Refuse a flag that is given twice: the last would win, and the other have no effect without a word."""
    given: dict[str, list[str]] = {}
    flags = list(itertools.takewhile(lambda each: each != "--", arguments))
    for argument, following in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            given.setdefault(flag.replace("_", "-"), []).append(value if equals else following)
    for flag, found in given.items():
        if len(found) > 1:
            raise _given_twice(flag, found)


def _given_twice(flag: str, found: Sequence[str]) -> SettingsError:
    values = [each for each in found if each and not each.startswith("--")]  # a switch has none
    said = f": {', '.join(values)}" if len(values) == len(found) else ""
    return SettingsError(f"{flag} is given {len(found)} times{said}; give it once")


def _of_a_dataclass(stop: BaseException) -> InlayError | None:
    """Return what a dataclass said of its own values, before tyro broke it into lines."""
    problem = stop.__context__
    while problem is not None and not isinstance(problem, InlayError):
        problem = problem.__context__
    return problem


def _sentence(framed: str, verb: str) -> str:
    """Turn tyro's framed message into one sentence: what is wrong, and the nearest setting."""
    lines = [line.strip("│╭╮╰╯ \t") for line in framed.splitlines()][1:]  # the first is a title
    text = " ".join(line for line in lines if set(line) - set("─-")).partition(" For full helptext")[0]
    see = f"; see inlay {verb} --help"
    if match := re.match(r"Unrecognized options: ([^ ,]+)", text):
        near = re.search(r"Perhaps you meant: (--[\w.-]+)", text)
        return f"unknown setting {match[1]}" + (f"; did you mean {near[1]}?" if near else see)
    if match := re.match(r"Missing from inlay [\w-]+: (--[\w.-]+|[A-Z]+)", text):
        return f"{match[1]} is missing{see}"
    return text.partition(" Argument helptext:")[0].rstrip(".") + see
