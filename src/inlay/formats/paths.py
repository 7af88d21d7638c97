"""Names from outside, as paths."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ..errors import InvalidRequest, SettingsError
from ..outside import NO_TEXT

STANDARD_INPUT = "-"


def path_of(asked: str, error: type[InvalidRequest] = SettingsError, *, any_bytes: bool = False) -> Path:
    """Return the path that a user's words name, with ~ as their home. There need be nothing at it.

    Raises `error` if nothing can be there: the name is too long, not allowed, or in a folder that may not be entered;
    if it stands for standard input; or if it is not UTF-8, which the libraries that read and write models need, unless
    `any_bytes` will do.
    """
    if asked == STANDARD_INPUT:
        raise error("- is standard input, and only the INPUT of inlay predict can be that; a file called so is ./-")
    if not any_bytes and NO_TEXT.search(asked):
        raise error(f"{asked}: this name is not UTF-8; give it another")
    path = Path(os.path.expanduser(asked))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as problem:  # a ValueError: a NUL, or letters that the system's names do not have
        start = asked if len(asked) <= 100 else f"{asked[:100]}… ({len(asked)} letters)"
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
        raise error(f"{start}: no path that can be used: {reason}") from None
    return path


def new_file(flag: str, asked: str, kinds: Sequence[str], what: str) -> Path:
    """Return the path of a file that is to be written.

    Raises SettingsError if it is there already, or if its name does not end as one of the `kinds` that `what` is
    written as.
    """
    path = path_of(asked)
    if path.suffix.lower() not in kinds:
        listed = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
        raise SettingsError(f"{flag} is {asked}; {what} written as {listed}: name it so")
    if os.path.lexists(path):
        raise SettingsError(f"{flag} {asked} is there already; name another file, or remove it")
    return path


def nearest_path(path: Path, marked: str = "") -> str:
    """Say `; did you mean runs/first?` for what is there by the nearest name, part by part; nothing if a part is like
    no name in its folder, or if the folder that is found has no file `marked`."""
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if not (found / part).exists():
            try:
                near = get_close_matches(part, os.listdir(found), n=1)
            except OSError:
                return ""
            if not near:
                return ""
            part = near[0]
        found /= part
    return f"; did you mean {found}?" if found != path and (found / marked).exists() else ""
