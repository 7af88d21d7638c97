"""Where a base or data lie that a run was given by a relative path, as seen from the folder of its adapter.

A run can be opened from any folder, and moved together with what it was trained on.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PLACES = "places"


def places(named: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the paths, relative to `folder`, of those that are files or folders here and were named by relative
    paths.
    """
    return {
        key: _from(folder, Path(name))
        for key, name in named.items()
        if not os.path.isabs(name) and os.path.exists(name)
    }


def moved(seen: Mapping[str, str], before: Path, folder: Path) -> dict[str, str]:
    """Return what was `seen` from the folder `before` as seen from another one."""
    return {key: _from(folder, before / path) for key, path in seen.items()}


def found(name: str, folder: Path, seen: str | None, marked: str = "") -> str:
    """Return the path of what was named so: as it was seen from `folder`, as it is named, or as it is named in one of
    the folders that `folder` lies in, as that of an older run often was; `name` if it is in none.

    A folder counts if it has the file `marked`.
    """
    if os.path.isabs(name):
        return name
    candidates = [Path(name), *(parent / name for parent in folder.absolute().parents)]
    if seen is not None:
        candidates.insert(0, folder / seen)
    for path in candidates:
        if name and os.path.exists(path / marked):
            same = os.path.exists(name) and path.samefile(name)
            return name if same else os.path.normpath(path.absolute())
    return name


def _from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # on another drive
        return str(path.absolute())
