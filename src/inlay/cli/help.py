"""The help of a verb: its usage, what it does, and its flags in groups, in lines that fit the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from shutil import get_terminal_size

from ..show.lines import fitted
from .flags import Flag, value_text

_WIDEST = 100  # columns; longer lines are hard to read
_COLUMN = 26  # where the texts begin


def help_page(verb: str, description: str, flags: Sequence[Flag], titles: Mapping[str, str]) -> str:
    """Write the page. `titles` names the groups in their order, by single settings or by what they begin with up to a
    dot; what has no title is among the options.
    """
    width = min(get_terminal_size().columns, _WIDEST)
    lines = _lines(verb, description, flags, titles)
    return "\n".join(fitted(line, width, " " * indent) for line, indent in lines)


def _lines(verb: str, description: str, flags: Sequence[Flag], titles: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield each line as it is, and where it is to go on if it has to be broken."""
    arguments = [flag for flag in flags if flag.positional]
    yield f"usage: {usage(verb, flags)} [options]", 7
    for paragraph in description.split("\n\n"):
        yield "", 0
        yield " ".join(paragraph.split()), 0
    groups: dict[str, list[Flag]] = {"": arguments, **{title: [] for title in titles.values()}}
    for flag in flags:
        if not flag.positional:
            group = flag.setting.rpartition(".")[0] + "."
            groups.setdefault(titles.get(flag.setting) or titles.get(group) or "Options", []).append(flag)
    for title, members in groups.items():
        if members:
            yield "", 0
            if title:
                yield title, 0
        for flag in members:
            yield _entry(flag), _COLUMN
    yield "", 0
    yield f"  {'--help':<{_COLUMN - 2}}Show this.", 0


def usage(verb: str, flags: Sequence[Flag]) -> str:
    """Write the verb with what stands by itself, in brackets where it may be left out."""
    alone = [flag.metavar if flag.required else f"[{flag.metavar}]" for flag in flags if flag.positional]
    return " ".join(["inlay", verb, *alone])


def _entry(flag: Flag) -> str:
    name = f"  {flag.usage}"
    start = f"{name:<{_COLUMN}}" if len(name) < _COLUMN else f"{name}\n{' ' * _COLUMN}"
    return f"{start}{flag_text(flag)}"


def flag_text(flag: Flag) -> str:
    """Return what the flag does, and its default where the text does not say it."""
    text = flag.text
    if flag.is_switch:
        return f"Do not {text[:1].lower()}{text[1:]}" if flag.default is True else text
    if unsaid := [str(each) for each in flag.kind.choices if not _says(text, each)]:
        every = ", ".join(map(str, flag.kind.choices))
        text += f" One of {every}." if len(flag.usage) < len(every) and len(unsaid) > 1 else ""
    if flag.required or flag.default in (None, "", (), {}) or "Default:" in text:
        return text
    return f"{text} Default: {value_text(flag.default)}."


def _says(text: str, choice: object) -> bool:
    return str(choice) in text.replace(",", " ").replace(".", " ").replace(";", " ").replace(":", " ").split()
