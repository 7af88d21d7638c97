"""DATA as the user names it: a file, a folder, a built-in or a data set on the Hugging Face hub, opened into splits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from ..errors import DataError, did_you_mean, nearest_name
from ..formats.paths import nearest_path, path_of
from .problems import Problems, listed
from .rows import EXTENSIONS, Row, has_separators, read_files, read_rows, row_extension, table_row
from .settings import Reading
from .split_files import HUB_FOLDER, parts_of, split_of

__all__ = ["Row", "Source", "open_source"]

BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(str(resources.files("inlay"))) / "builtin"
_ORDER = "MODEL comes before DATA, but for inlay data, where it follows"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Source:
    splits: dict[str, list[Row]]
    """The rows of train, valid and test, as far as there are any."""
    names: dict[str, str]
    """The file of each split, or what the hub calls it."""
    ignored: tuple[str, ...]
    """What else is in the folder."""
    parted: bool = True
    """Whether it comes in splits; the rows of a file are all in train."""
    unread: dict[str, int] = field(default_factory=dict)
    """How many rows of a split could not be read."""

    def all_rows(self) -> list[Row]:
        """Return the rows of every split, those of train first."""
        return [row for rows in self.splits.values() for row in rows]

    def weigh(self, usable: Mapping[str, Sequence[object]], problems: Problems) -> int:
        """Add to `problems` how many rows of each split are faulty, which are those that are not `usable`; returns how
        many are in all."""
        totals = {split: len(rows) + self.unread.get(split, 0) for split, rows in self.splits.items()}
        faulty = {split: total - len(usable[split]) for split, total in totals.items()}
        for split, total in totals.items():
            problems.weigh(self.names[split], faulty[split], total)
        return sum(faulty.values())


def open_source(
    asked: str,
    problems: Problems,
    reading: Reading | None = None,
    *,
    fetch: bool = True,
    train: bool = True,
) -> Source:
    """Return what `asked` names. Raises DataError if there is no such data; unreadable rows are added to `problems`.

    `reading` says how files are read. Without `fetch` nothing is looked for on the hub, and without `train` there need
    be no such split.
    """
    reading = reading or Reading()
    if asked.startswith(BUILTIN):
        return _open_folder(asked, _builtin(asked), problems, reading, train)
    path = path_of(asked, DataError, any_bytes=True)
    if path.is_dir():
        return _open_folder(asked, path, problems, reading, train)
    if path.exists():
        if row_extension(path.name) is None:
            raise DataError(f"{asked}: not a kind of file that can be read; known: {', '.join(EXTENSIONS)}")
        check_between(asked, reading, [path.name])
        rows = read_rows(path, problems, reading)
        return Source({"train": rows}, {"train": path.name}, (), parted=False, unread={"train": problems.faulty})
    if HUB_ID.fullmatch(asked) and row_extension(asked) is None:
        if not fetch:
            raise DataError(f"{asked}: no file or folder here, and a data set is fetched only where you name it")
        check_between(asked, reading, [])
        return _open_hub(asked, problems, train)
    raise DataError(f"{asked}: no such file{nearest_file(path)}")


def check_between(asked: str, reading: Reading, files: Iterable[str]) -> None:
    """Raise DataError for a separator, or a way to quote, that none of the files has a place for."""
    named = {name: value for name, value in reading.asked().items() if name in ("separator", "quoting")}
    if named and not any(map(has_separators, files)):
        name, value = next(iter(named.items()))
        raise DataError(f"{asked}: data.{name} is {value!r}, but only .csv and .tsv files have one; leave it out")


def holds_rows(asked: str) -> bool:
    """Tell whether what is named so on this machine is data, by the names of its files."""
    if asked.startswith(BUILTIN):
        return asked.removeprefix(BUILTIN) in _builtin_names()
    try:
        path = Path(asked)
        if path.is_dir():
            return any(part.split for part in parts_of(path))
        return path.is_file() and row_extension(path.name) is not None
    except (OSError, ValueError):  # no name that a file can have, or none that may be looked at
        return False


def nearest_file(path: Path, others: Iterable[str] = ()) -> str:
    """Say `; did you mean data/train.csv?` for the nearest name in the folder of `path` or in `others`, if one is
    near.
    """
    if near := nearest_path(path):
        return near
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    near = get_close_matches(path.name, others, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _open_folder(asked: str, folder: Path, problems: Problems, reading: Reading, train: bool) -> Source:
    parts = parts_of(folder)
    if not any(part.split for part in parts) and (folder / HUB_FOLDER).is_dir():
        parts = parts_of(folder / HUB_FOLDER, f"{HUB_FOLDER}/")
    chosen, ignored = _assign(asked, {part.name: part.split for part in parts}, "file", train)
    files = {part.name: part for part in parts}
    for name in chosen.values():
        if missing := files[name].missing():
            raise DataError(f"{asked}: {name} is one of several files, of which {missing} is missing; get it as well")
    there = (path.name for name in chosen.values() for path in files[name].files.values())
    check_between(asked, reading, there)
    splits: dict[str, list[Row]] = {}
    unread: dict[str, int] = {}
    for split, name in chosen.items():
        before = problems.faulty
        splits[split] = read_files(files[name].files, problems, reading)
        unread[split] = problems.faulty - before
    return Source(splits, chosen, ignored, unread=unread)


def _assign(
    asked: str, splits: dict[str, str | None], noun: str, train: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the name of each split, and the names that are none's."""
    names: dict[str, str] = {}
    for name, split in splits.items():
        if split is None:
            continue
        if split in names:
            raise DataError(f"{asked}: {names[split]} and {name} are both the {split} split; keep one of them")
        names[split] = name
    if "train" not in names and (train or not names):
        if "config.json" in splits:
            raise DataError(f"{asked}: a model, not data; {_ORDER}")
        there = listed(splits) or "nothing"
        wanted = f"train {noun}" if train else f"train, valid or test {noun}"
        raise DataError(f"{asked}: no {wanted}; it holds {there}; name one train, and valid and test if you have them")
    names = {split: names[split] for split in ("train", "valid", "test") if split in names}
    return names, tuple(name for name in splits if name not in names.values())


def _builtin(asked: str) -> Path:
    name, known = asked.removeprefix(BUILTIN), _builtin_names()
    if name not in known:
        model = "" if nearest_name(name, known) else f"; if it is a model: {_ORDER}"
        raise DataError(f"{asked}: no such built-in data{did_you_mean(name, known)}{model}")
    return BUILTIN_FOLDER / name


def _builtin_names() -> list[str]:
    return [path.parent.name for path in BUILTIN_FOLDER.glob("*/train.jsonl")]


def _open_hub(asked: str, problems: Problems, train: bool) -> Source:
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
    names, ignored = _assign(asked, {str(name): split_of(str(name)) for name in loaded}, "split", train)
    splits: dict[str, list[Row]] = {split: [] for split in names}
    unread: dict[str, int] = {}
    for split, name in names.items():
        before = problems.faulty
        try:
            for number, row in enumerate(loaded[name], 1):
                splits[split] += table_row(dict(row), f"{asked} {name} row {number}", problems)
        except Exception as problem:  # a value that Python or the decoder of its kind cannot have
            raise DataError(
                f"{asked}: row {len(splits[split]) + 1} of {name} cannot be read: {problem}; save the columns that are "
                "needed to a file"
            ) from None
        unread[split] = problems.faulty - before
    return Source(splits, names, ignored, unread=unread)
