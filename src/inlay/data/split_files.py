"""The files of a folder by split: one for each, several as the Hugging Face hub has them, or a folder for each."""

import re
from dataclasses import dataclass
from pathlib import Path

from .rows import plain_text, row_extension

SPLIT_OF = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "val": "valid",
    "eval": "valid",
    "test": "test",
}
HUB_FOLDER = "data"
"""Where data sets on the hub have their files."""
# train-00000-of-00002.parquet, and as older ones are called train-00000-of-00002-1f2e3d4c5b6a7988.parquet
_SHARD = re.compile(r"(?P<stem>.+?)-(?P<number>[0-9]{1,9})-of-(?P<of>[0-9]{1,9})(-[0-9a-f]{6,})?")


@dataclass(frozen=True)
class Part:
    """One or several files of a folder that belong together, or something else that is there."""

    name: str
    """What a message calls it."""
    split: str | None
    """None for what belongs to no split."""
    files: dict[str, Path]
    """The files by what messages call them, in the order of their rows."""

    def missing(self) -> str | None:
        """Return the first file that the names of the others say there is."""
        numbered = {(int(m["number"]), int(m["of"])) for name in self.files if (m := _shard(name))}
        if len(numbered) < len(self.files):  # files without numbers, as many as there may be
            return None
        count = max(of for _, of in numbered)
        there = {number for number, of in numbered if of == count}
        return next((f"number {i} of 0 to {count - 1}" for i in range(count) if i not in there), None)


def split_of(name: str) -> str | None:
    """Return the split that a file of this name, without its ending, or a folder holds."""
    return SPLIT_OF.get(name.lower())


def parts_of(folder: Path, prefix: str = "") -> list[Part]:
    """Return all that is in the folder, by name. Plain texts beside rows to train on are notes, and belong to no
    split.
    """
    shards: dict[str, dict[str, Path]] = {}
    parts: list[Part] = []
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            files = _inside(path, name) if split_of(path.name) else {}
            parts.append(Part(f"{name}/", split_of(path.name), files) if files else Part(name, None, {}))
            continue
        extension = row_extension(path.name) if path.is_file() else None
        stem = path.name[: -len(extension)] if extension else ""
        if (shard := _SHARD.fullmatch(stem)) and split_of(shard["stem"]):
            shards.setdefault(f"{prefix}{shard['stem']}-*-of-{shard['of']}{extension}", {})[name] = path
        else:
            split = split_of(stem)
            parts.append(Part(name, split, {name: path} if split else {}))
    for name, files in shards.items():
        stem = name.removeprefix(prefix).partition("-*-of-")[0]
        parts.append(Part(name if len(files) > 1 else next(iter(files)), split_of(stem), files))
    if any(part.split == "train" and not _texts(part) for part in parts):
        parts = [Part(part.name, None, {}) if _texts(part) else part for part in parts]
    return sorted(parts, key=lambda part: part.name)


def _inside(folder: Path, name: str) -> dict[str, Path]:
    """Return the files of rows in a folder; of plain texts only if it has no others."""
    files = {f"{name}/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    rows = {name: path for name, path in files.items() if row_extension(name) and not plain_text(name)}
    return rows or {name: path for name, path in files.items() if plain_text(name)}


def _texts(part: Part) -> bool:
    return any(map(plain_text, part.files))


def _shard(name: str) -> re.Match[str] | None:
    extension = row_extension(name)
    return _SHARD.fullmatch(name[: -len(extension)].rpartition("/")[2]) if extension else None
