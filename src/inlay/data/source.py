"""DATA as the user names it: a file, a folder, a built-in or a data set on the Hugging Face hub, opened into splits."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from ..errors import DataError, did_you_mean
from ..formats.paths import path_of
from .problems import Problems, listed
from .rows import EXTENSIONS, Row, plain_text, read_rows, row_extension

__all__ = ["Row", "Source", "open_source"]

SPLIT_OF = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "val": "valid",
    "eval": "valid",
    "test": "test",
}
BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(str(resources.files("inlay"))) / "builtin"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Source:
    splits: dict[str, list[Row]]
    """The rows of train and, where there are any, of valid and test."""
    names: dict[str, str]
    """The file of each split, or what the hub calls it."""
    ignored: tuple[str, ...]
    """What else is in the folder."""

    def all_rows(self) -> list[Row]:
        """Of every split, those of train first."""
        return [row for rows in self.splits.values() for row in rows]


def open_source(asked: str, problems: Problems) -> Source:
    """What `asked` names. Raises DataError if there is no such data; unreadable rows are added to `problems`."""
    if asked.startswith(BUILTIN):
        return _open_folder(asked, _builtin(asked), problems)
    path = path_of(asked, DataError, any_bytes=True)
    if path.is_dir():
        return _open_folder(asked, path, problems)
    if path.exists():
        if row_extension(path.name) is None:
            raise DataError(f"{asked}: not a kind of file that can be read; known: {', '.join(EXTENSIONS)}")
        return Source({"train": read_rows(path, problems)}, {"train": path.name}, ())
    if HUB_ID.fullmatch(asked) and row_extension(asked) is None:
        return _open_hub(asked)
    raise DataError(f"{asked}: no such file{nearest_file(path)}")


def nearest_file(path: Path, others: Iterable[str] = ()) -> str:
    """`; did you mean data/train.csv?` for the nearest name in the folder of `path` or in `others`, if one is near."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = [*(other.name for other in path.parent.iterdir()), *others]
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _open_folder(asked: str, folder: Path, problems: Problems) -> Source:
    stems = {}
    for path in sorted(folder.iterdir()):
        extension = row_extension(path.name) if path.is_file() else None
        stems[path.name] = path.name[: -len(extension)] if extension else None
    if any(SPLIT_OF.get((stem or "").lower()) == "train" and not plain_text(name) for name, stem in stems.items()):
        stems = {name: None if plain_text(name) else stem for name, stem in stems.items()}  # notes beside rows
    names, ignored = _assign(asked, stems, "file")
    splits = {split: read_rows(folder / name, problems) for split, name in names.items()}
    return Source(splits, names, ignored)


def _assign(asked: str, stems: dict[str, str | None], noun: str) -> tuple[dict[str, str], tuple[str, ...]]:
    names: dict[str, str] = {}
    for name, stem in stems.items():
        split = SPLIT_OF.get(stem.lower()) if stem else None
        if split is None:
            continue
        if split in names:
            raise DataError(f"{asked}: {names[split]} and {name} are both the {split} split; keep one of them")
        names[split] = name
    if "train" not in names:
        there = listed(stems) or "nothing"
        raise DataError(
            f"{asked}: no train {noun}; it holds {there}; name one train, and valid and test if you have them"
        )
    names = {split: names[split] for split in ("train", "valid", "test") if split in names}
    return names, tuple(name for name in stems if name not in names.values())


def _builtin(asked: str) -> Path:
    name, known = asked.removeprefix(BUILTIN), _builtin_names()
    if name not in known:
        raise DataError(f"{asked}: no such built-in data{did_you_mean(name, known)}")
    return BUILTIN_FOLDER / name


def _builtin_names() -> list[str]:
    return [path.parent.name for path in BUILTIN_FOLDER.glob("*/train.jsonl")]


def _open_hub(asked: str) -> Source:
    from datasets import DatasetDict, load_dataset

    try:
        loaded = load_dataset(asked)
    except Exception as problem:  # the hub, the network, a loading script: all mean that there is no such data here
        others = [BUILTIN + name for name in _builtin_names()]
        reason = str(problem).strip().partition("\n")[0]
        raise DataError(
            f"{asked}: neither a file or folder, nor reachable as a data set on the Hugging Face hub "
            f"({type(problem).__name__}: {reason}){nearest_file(Path(asked), others)}"
        ) from None
    assert isinstance(loaded, DatasetDict)
    names, ignored = _assign(asked, {str(name): str(name) for name in loaded}, "split")
    splits = {
        split: [Row(dict(row), f"{asked} {name} row {number}") for number, row in enumerate(loaded[name], 1)]
        for split, name in names.items()
    }
    return Source(splits, names, ignored)
