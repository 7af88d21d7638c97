"""Data that is given as a path, or as rows in Python: these become files, which everything else reads as always."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

from ..data.split_files import split_of
from ..errors import DataError, SettingsError
from ..formats.files import as_json

ROWS = "rows"  # in the folder of a run or a comparison: the files of rows that were given in Python


@dataclass(frozen=True)
class GivenData:
    """A file, a folder or a name that can be read now; `own` rows stand in files that are gone when the call ends."""

    path: str
    own: bool

    def keep(self, folder: Path) -> None:
        """Leave own rows in the folder of their run. Raises SettingsError if it holds other rows."""
        if not self.own:
            return
        kept, given = folder / ROWS, Path(self.path)
        if kept.exists():
            if _contents(kept) != _contents(given):
                raise SettingsError(f"{folder} holds runs on other rows; give another folder as out, or the same rows")
            return
        copytree(given, kept)


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
                raise DataError(f"data has the split {name!r}; known: train, valid, test and other names of these")
            lines = [_line(row, f"{name} row {number}") for number, row in enumerate(_rows(rows, name), 1)]
            Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        yield GivenData(folder, own=True)


def _rows(rows: Any, name: object) -> Iterable[object]:
    """Iterate over the rows of one split."""
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a DataFrame: pandas itself is not needed here
        return rows.to_dict(orient="records")
    if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__iter__"):
        raise DataError(
            f"the rows of {name} are {type(rows).__name__}; give a list of dicts, a datasets.Dataset or a DataFrame"
        )
    return rows


def _line(row: object, place: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{place} is {type(row).__name__}; a row is a dict of columns, such as {{'text': …, 'label': …}}"
        )
    try:
        return as_json(dict(row)) + "\n"
    except (TypeError, ValueError) as problem:
        raise DataError(f"{place} has a value that is neither text, number, list nor dict: {problem}") from None


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
