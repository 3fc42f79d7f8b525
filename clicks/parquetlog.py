"""Click logs as Parquet files: a row per event, columns by the names that the user gives, read some rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clicks.logformat import LogFormat
from clicks.parquetfile import damaged, is_own_time, opened, own_times
from clicks.textkinds import MILLISECONDS, ColumnKind, numeric_time
from clicks.times import UNITS
from clicks.typedcolumns import DOES_NOT_FIT, converted, converted_one_by_one, decoded
from clicks.unfit import Unfit
from terminal.errors import UserError

ROWS_AT_ONCE = 2**19
OWN_TIME = numeric_time(MILLISECONDS, "a time")
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating)
_IDS = (*_TEXT, *_NUMBERS, pa.types.is_boolean, pa.types.is_null)
_TIMES = (*_TEXT, pa.types.is_integer, pa.types.is_float64, pa.types.is_null)  # shorter floats are minutes apart


def parquet_blocks(path: Path, log: LogFormat, skip_bad_lines: bool) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The columns of the log that make the time, and blocks of all that are to be read, each as its kind has it.

    Raises:
        UserError: the file is damaged, a column is not there or cannot be what it should, or, while blocks are read, a
            row does not fit.
    """
    file, names = opened(path)
    of_time, kinds = log.columns_among(names, str(path))
    for name in kinds:
        kind = file.schema_arrow.field(name).type
        if name == of_time[0] and is_own_time(kind):
            if log.time_format in UNITS:
                what = f"times of Parquet's own type ({kind}), not numbers"
                raise UserError(f"{path}: {name} has {what}: --time_format iso")
            kinds[name] = OWN_TIME
        else:
            _refuse_type(f"{path}: {name}", kind, is_time=name in of_time)
    return of_time, _blocks(path, file, kinds, Unfit(path, "row", skip_bad_lines))


def _refuse_type(where: str, kind: pa.DataType, is_time: bool) -> None:
    """Raise a UserError where a column's type is none that ids, or times, can be read from."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_one(value) for is_one in (_TIMES if is_time else _IDS)):
        expected = "numbers of 64 bits, times or text" if is_time else "whole numbers or text"
        raise UserError(f"{where} is a column of type {kind}: expected {expected}")


def _blocks(path: Path, file: pq.ParquetFile, kinds: dict[str, ColumnKind], unfit: Unfit) -> Iterator[dict[str, Any]]:
    n_before = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(kinds)):
            rows = pa.table(batch)
            columns = {name: own_times(rows[name]) if kind is OWN_TIME else rows[name] for name, kind in kinds.items()}
            try:
                block = {name: converted(columns[name], kind) for name, kind in kinds.items()}
            except DOES_NOT_FIT:
                values = {name: _values(column) for name, column in columns.items()}
                numbers = range(n_before + 1, n_before + 1 + batch.num_rows)
                block, wrong = converted_one_by_one(values, kinds, numbers)
                for number, problem in wrong.items():
                    unfit.take(number, problem)
            n_before += batch.num_rows
            yield block
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error
    unfit.say()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column: text as bytes, for its encoding may be broken, numbers with a point of as many bits."""
    column = decoded(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return list(column.to_numpy()) if pa.types.is_floating(column.type) else column.to_pylist()
