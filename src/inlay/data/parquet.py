"""The rows of a Parquet file as Python's values, as far as Python has them."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import Problems, Unreadable
from .text_file import Bound

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 1000
_ROW_BYTES = 200  # of a row's own object


def parquet_rows(
    path: Path, problems: Problems, megabytes: int | None = None, name: str | None = None
) -> Iterator[dict[str, object]]:
    """Yield each row's values by column; a problem ends the file.

    Raises nothing for a value that Python cannot have, such as a date in the year 300,000: it is an `Unreadable`, which
    says so where the column is used.
    """
    import pyarrow
    import pyarrow.parquet

    kind, name = ("unreadable", path), name or path.name
    try:
        bound = Bound.of(path, megabytes)
        with pyarrow.parquet.ParquetFile(path) as file:
            leaves = [file.schema.column(i) for i in range(file.metadata.num_columns)]
        # A text of 10 MB that a million rows share takes no room in the file. It is not to be written out before it is
        # counted how often it is there, so texts are read as numbers of a list of texts.
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            columns = file.schema_arrow.names
            if twice := next((column for column in columns if columns.count(column) > 1), None):
                problems.add(kind, name, f"has two columns named {twice}; rename one")
                return
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            unpacked = 0
            claimed = sum(max(group.total_byte_size, group.num_rows * _ROW_BYTES) for group in groups)
            if claimed > bound.bytes:
                problems.add(kind, name, bound.complaint())
                return
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                unpacked += _ROW_BYTES * len(batch) + sum(map(_bytes, batch.columns))
                if unpacked > bound.bytes:
                    problems.add(kind, name, bound.complaint())
                    return
                for values in zip(*map(_values, batch.columns), strict=True):
                    yield dict(zip(columns, values, strict=True))
    except (OSError, ValueError, pyarrow.ArrowException, MemoryError) as problem:
        problems.add(kind, name, f"cannot be read as Parquet: {str(problem).strip() or type(problem).__name__}")


def _bytes(column: "pyarrow.Array") -> int:
    """Count the bytes of a column once each value stands for itself."""
    compute: Any = importlib.import_module("pyarrow.compute")  # whose functions no stub names
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        if not (types.is_string(kind.value_type) or types.is_binary(kind.value_type)):
            return 8 * len(column)
        lengths = compute.binary_length(column.dictionary).take(column.indices)
        return 8 * len(column) + (compute.sum(lengths).as_py() or 0)
    if types.is_struct(kind):
        return sum(map(_bytes, column.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return 8 * len(column) + _bytes(column.flatten())
    if types.is_map(kind):
        return 8 * len(column) + _bytes(column.keys) + _bytes(column.items)
    return max(column.nbytes, 8 * len(column))


def _values(column: "pyarrow.Array") -> list[object]:
    try:
        # A list's numbers are put in place of their texts by Arrow, many times as fast as one by one.
        written_out = column.cast(_written_out(column.type))
        # Without maps it is not asked for, which would take Arrow thirty times as long.
        return (
            written_out.to_pylist(maps_as_pydicts="strict") if "map<" in str(column.type) else written_out.to_pylist()
        )
    except Exception:  # for one value, of whatever kind: ValueError, OverflowError, KeyError, UnicodeDecodeError, ...
        return [_value(scalar) for scalar in column]


def _value(scalar: "pyarrow.Scalar") -> object:
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except Exception as problem:
        return Unreadable(f"a {scalar.type} that cannot be read ({problem})")


def _written_out(kind: "pyarrow.DataType") -> "pyarrow.DataType":
    """Return the type of the same values without lists of texts beside them."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return _written_out(kind.value_type)
    if types.is_struct(kind):
        return pyarrow.struct(
            [kind.field(i).with_type(_written_out(kind.field(i).type)) for i in range(kind.num_fields)]
        )
    if types.is_list(kind):
        return pyarrow.list_(_written_out(kind.value_type))
    if types.is_map(kind):
        return pyarrow.map_(_written_out(kind.key_type), _written_out(kind.item_type))
    return kind
