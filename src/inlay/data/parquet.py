"""The rows of a Parquet file as Python's values, as far as Python has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .problems import Problems, Unreadable
from .text_file import Bound

_BATCH_ROWS = 1000


def parquet_rows(
    path: Path, problems: Problems, megabytes: int | None = None, name: str | None = None
) -> Iterator[dict[str, Any]]:
    """Each row's values by column; a problem ends the file.

    Raises nothing for a value that Python cannot have, such as a date in the year 300,000: it is an `Unreadable`, which
    says so where the column is used.
    """
    import pyarrow
    import pyarrow.parquet

    kind, name = ("unreadable", path), name or path.name
    try:
        bound = Bound.of(path, megabytes)
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if twice := next((column for column in columns if columns.count(column) > 1), None):
                problems.add(kind, name, f"has two columns named {twice}; rename one")
                return
            # What the file claims is asked first: decoding a single value may take all of it.
            rows, unpacked = file.metadata.num_rows, 0
            claimed = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if max(claimed, rows) > bound.bytes:
                problems.add(kind, name, bound.complaint())
                return
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                unpacked += batch.nbytes
                if unpacked > bound.bytes:
                    problems.add(kind, name, bound.complaint())
                    return
                for values in zip(*map(_values, batch.columns), strict=True):
                    yield dict(zip(columns, values, strict=True))
    except (OSError, ValueError, pyarrow.ArrowException, MemoryError) as problem:
        problems.add(kind, name, f"cannot be read as Parquet: {str(problem).strip() or type(problem).__name__}")


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist(maps_as_pydicts="strict")
    except Exception:  # for one value, of whatever kind: ValueError, OverflowError, KeyError, UnicodeDecodeError, ...
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except Exception as problem:
        return Unreadable(f"a {scalar.type} that cannot be read ({problem})")
