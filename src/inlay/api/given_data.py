"""Data that is given as a path, or as rows in Python: these become files, which everything else reads as always."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from ..data.split_files import split_of
from ..errors import DataError, SettingsError
from ..formats.files import as_json, replace_folder

_IN_FILE = re.compile(r"^(train|valid|test)\.jsonl(?::(\d+))?:", re.MULTILINE)  # before what an error says
_LINES = re.compile(r"(rows have this: )line(?=s )")  # which hold a row each
ROWS = "rows"  # in the folder of a run or a comparison: the files of rows that were given in Python


@dataclass(frozen=True)
class GivenData:
    """A file, a folder or a name that can be read now; `own` rows stand in files that are gone when the call ends."""

    path: str
    own: bool
    parted: bool = True  # into splits, if they are own

    @property
    def file(self) -> str:
        """The one file of rows that are in no splits; else the same as `path`."""
        return self.path if self.parted or not self.own else str(Path(self.path, "train.jsonl"))

    def keep(self, folder: Path) -> None:
        """Leave own rows in the folder of their run. Raises SettingsError if it holds other rows."""
        if not self.own:
            return
        kept, given = folder / ROWS, Path(self.path)
        if kept.exists():
            if _contents(kept) != _contents(given):
                raise SettingsError(f"{folder} holds runs on other rows; give another folder as out, or the same rows")
            return
        replace_folder(kept, lambda new: _copy_files(given, new))


@contextmanager
def given_data(data: object) -> Iterator[GivenData]:
    """Make `data` readable: a path or a name; a list of dicts, a datasets.Dataset or a pandas DataFrame, which is what
    is trained on; or a dict, such as a DatasetDict, of some of these by split."""
    if isinstance(data, str | Path):
        yield GivenData(str(data), own=False)
        return
    splits = data if isinstance(data, Mapping) else {"train": data}
    with TemporaryDirectory(prefix="inlay-rows-") as folder:
        for name, rows in splits.items():
            split = split_of(str(name))
            if split is None:
                raise DataError(
                    f"data has the split {name!r}; known: train, valid, test and other names of these. Leave others "
                    "out; of columns make rows, such as with datasets.Dataset.from_dict"
                )
            lines = [_line(row, f"{name} row {number}") for number, row in enumerate(_rows(rows, name), 1)]
            Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        try:
            yield GivenData(folder, own=True, parted=isinstance(data, Mapping))
        except DataError as problem:
            raise DataError(_LINES.sub(r"\1row", _IN_FILE.sub(_in_rows, str(problem)))) from None


def is_table(data: object) -> bool:
    """Tell whether it is a DataFrame or a datasets.Dataset, of which a loop may see the columns and no rows."""
    return any(hasattr(data, name) for name in ("columns", "features", "to_dicts"))


def _rows(rows: Any, name: object) -> Iterable[object]:
    """Iterate over the rows of one split. What a table lacks is None; a class of a datasets.Dataset has its name."""
    if hasattr(rows, "to_dicts"):  # a DataFrame of polars
        return rows.to_dicts()
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # one of pandas
        return rows.astype(object).where(rows.notna(), None).to_dict(orient="records")
    if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__iter__"):
        raise DataError(
            f"the rows of {name} are {type(rows).__name__}; give a list of dicts, a datasets.Dataset or a DataFrame"
        )
    features = getattr(rows, "features", None) or {}
    classes = {column: names for column, kind in features.items() if (names := getattr(kind, "names", None))}
    return (_named(row, classes) for row in rows) if classes else rows


def _named(row: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the row with the names of its classes; what has none, such as -1 for unknown, stays."""
    named = {name: names[number] for name, names in classes.items() if 0 <= (number := row[name]) < len(names)}
    return {**row, **named}


def _line(row: object, place: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{place} is {type(row).__name__}; a row is a dict of columns, such as {{'text': …, 'label': …}}"
        )
    try:
        return as_json(_plain(row)) + "\n"
    except (TypeError, ValueError) as problem:
        raise DataError(f"{place} has a value that is neither text, number, list nor dict: {problem}") from None


def _plain(value: Any) -> object:
    """Make it what JSON has: numbers and arrays of NumPy and torch, and dates, are no text, number, list or dict."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.isoformat() if hasattr(value, "isoformat") else value


def _in_rows(place: re.Match[str]) -> str:
    split, number = place.groups()
    return f"{split} row {number}:" if number else f"{split}:"


def _copy_files(folder: Path, to: Path) -> None:
    for path in folder.iterdir():
        copyfile(path, to / path.name)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
