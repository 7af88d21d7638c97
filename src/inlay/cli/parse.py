"""From arguments to a verb's dataclass, by tyro, with one way to fail: a SettingsError."""

import contextlib
import inspect
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import tyro

from ..elsewhere import SETTINGS
from ..errors import InlayError, SettingsError
from ..names import listed, meant, no_setting
from ..ranges import problem_of_text
from .flags import Flag, flags_of
from .help import print_help, usage

CommandT = TypeVar("CommandT")
_HELP = {"-h", "--help"}
_OF_METHOD = "--method."
_TITLES = {"json": "Options", "data.": "The data"}  # the others are options too


def parse(
    command: type[CommandT],
    arguments: Sequence[str],
    verb: str,
    beneath: Sequence[str] = (),
    *,
    description: str | None = None,
    first: Sequence[Flag] = (),
    titles: Mapping[str, str] | None = None,
    method: str = "",
) -> CommandT:
    """Return an instance of the dataclass `command`. Prints the help, which begins with the `description` or else the
    class's docstring, and exits with 0 if that is asked for; it lists also the flags in `first`, which the verb takes
    by itself, and has `titles` for groups of them. `method` is the name of the one whose settings are in
    the group of that name.

    The arguments win over those `beneath`. Raises SettingsError for a flag that is among them twice.
    """
    _check_given_once(arguments)
    if not _HELP.isdisjoint(_before_dashes(arguments)):
        flags = [*first, *flags_of(command)]
        print_help(verb, inspect.cleandoc(description or command.__doc__ or ""), flags, titles or _TITLES)
        raise SystemExit(0)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(
                command,
                args=[*beneath, *arguments],
                prog=f"inlay {verb}",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        flags = [*first, *flags_of(command)]
        own = _of_a_dataclass(stop)
        said = str(own) if own is not None else "\n".join(faults([*beneath, *arguments], flags, verb, method))
        raise SettingsError(said or f"{_plain(output.getvalue())}; see inlay {verb} --help") from None


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


def faults(arguments: Sequence[str], flags: Sequence[Flag], verb: str, method: str = "") -> Iterator[str]:
    """Yield what is wrong with arguments that could not be read, in the order in which they are given.

    Which of them stand by themselves is not judged behind an unknown flag, whose value nobody can tell.
    """
    by_name = {flag.shown: flag for flag in flags if not flag.positional}
    alone = [flag for flag in flags if flag.positional]
    rest = list(arguments)
    given, unsure = 0, False
    while rest:
        argument = rest.pop(0)
        if not _is_flag(argument):
            given += 1
            if given > len(alone) and not unsure:
                yield f"{argument!r} is one argument too many: {usage(verb, alone)}"
            continue
        name, equals, value = argument.partition("=")
        flag = by_name.get(name.replace("_", "-"))
        if flag is None:
            unsure = True
            yield _unknown(name, flags, verb, method)
            continue
        several = flag.kind.several
        values = [value] if equals else list(itertools.takewhile(lambda each: not _is_flag(each), rest))
        values = values if several else values[: 0 if flag.is_switch and not equals else 1]
        rest = rest if equals else rest[len(values) :]
        if flag.is_switch:
            if equals:
                yield f"{name} takes no value; it is there or it is not"
        elif len(values) % len(flag.metavar.split()) or not (values or several):
            yield f"{name} needs {'pairs' if flag.kind.several else 'a value'}: {flag.metavar}"
        for each in values if flag.kind.several != "pairs" else values[1::2]:
            if problem := problem_of_text(each, flag.kind):
                yield f"{name} {problem}"
    missing = [flag.metavar for flag in alone[given:] if flag.required]
    if missing and not unsure:
        yield f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing: {usage(verb, alone)}"


def _unknown(name: str, flags: Sequence[Flag], verb: str, method: str) -> str:
    """Suggest the flag that was meant, or the argument that stands by itself; or say what the method has."""
    settings = {flag.metavar.strip("[]").lower(): flag for flag in flags if flag.positional}  # as the help calls it
    settings |= {flag.setting: flag for flag in flags}
    settings |= {flag.shown.lstrip("-").replace("-", "_"): flag for flag in flags if not flag.positional}
    found = []
    for near in meant(name.lstrip("-").replace("-", "_"), settings, SETTINGS):
        setting, space, value = near.partition(" ")
        flag = settings[setting]
        found.append(f"{flag.metavar}, without a flag" if flag.positional else f"{flag.shown}{space}{value}")
    if found:
        return f"unknown setting {name}; did you mean {listed(dict.fromkeys(found))}?"
    if method and name.startswith(_OF_METHOD):
        own = [flag.shown.removeprefix(_OF_METHOD) for flag in flags if flag.shown.startswith(_OF_METHOD)]
        return no_setting(method, name.removeprefix(_OF_METHOD), own)
    return f"unknown setting {name}; see inlay {verb} --help"


def _is_flag(argument: str) -> bool:
    """Tell a flag from a value, which may be a negative number."""
    return argument.startswith("--") or (argument[:1] == "-" and argument[1:2].isalpha())


def _before_dashes(arguments: Sequence[str]) -> Iterator[str]:
    return itertools.takewhile(lambda each: each != "--", arguments)


def _check_given_once(arguments: Sequence[str]) -> None:
    """Refuse a flag that is given twice: the last would win, and the other have no effect without a word."""
    given: dict[str, list[str]] = {}
    flags = list(_before_dashes(arguments))
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


def _plain(framed: str) -> str:
    """Return tyro's message without its frame, for what `faults` does not know."""
    lines = [line.strip("│╭╮╰╯ \t") for line in framed.splitlines()][1:]  # the first is a title
    text = " ".join(line for line in lines if set(line) - set("─-")).partition(" For full helptext")[0]
    return text.partition(" Argument helptext:")[0].rstrip(".")
