"""Clicks that the field already has as Parquet files: a row a click, columns by the names in :mod:`clicks.columns`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clicks.clickfile import Clicks
from clicks.columns import milliseconds, places_of_columns
from clicks.integerids import exact_below, with_integer_ids
from clicks.textkinds import MILLISECONDS, MOST_SECONDS, to_nonempty_text, to_numpy
from clicks.times import time_kind
from clicks.typedcolumns import decoded
from terminal.errors import UserError

_TEXT = pa.dictionary(pa.int32(), pa.large_string())


def read_parquet(path: Path) -> tuple[Clicks, str]:
    """The clicks of a file in the order of its rows, and in words as what it was read.

    Raises:
        UserError: the file is damaged, a column is not there, or a row is no click.
    """
    file, names = opened(path)
    places = places_of_columns(names, str(path))
    try:
        table = file.read(columns=[names[place] for place in places.values()])
        table.validate(full=True)  # that text is UTF-8, which reading leaves open
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path) from error
    columns = {column: table[names[place]] for column, place in places.items()}
    if table.num_rows == 0:
        raise UserError(f"{path} holds no clicks")
    for column, values in columns.items():
        if values.null_count:
            row = int(np.argmax(pc.is_null(values).to_numpy())) + 1
            raise UserError(f"{path}, row {row}: {column} is missing: leave out such rows")
    session, session_names = _ids(columns["SessionID"], f"{path}, SessionID")
    item, item_names = _ids(columns["ItemID"], f"{path}, ItemID")
    time, unit = _times(columns["Time"], f"{path}, Time")
    clicks = Clicks(session, item, time, session_names, item_names)
    return with_integer_ids(clicks), f"clicks of a Parquet file, times in {unit}"


def opened(path: Path) -> tuple[pq.ParquetFile, list[str]]:
    """A file, and the names of its columns.

    Raises:
        UserError: it is damaged.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        return file, file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path) from error


def _ids(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, pa.LargeStringArray | None]:
    """Ids as integers, or as numbers and their texts."""
    column = decoded(column)
    kind = column.type
    try:
        if pa.types.is_floating(kind) and (np.abs(values := column.to_numpy()) >= exact_below(values.dtype)).any():
            raise UserError(f"{where}: numbers with a point have lost digits: write whole numbers, or text")
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return to_numpy(column.cast(pa.int64())), None  # refuses fractions, and what is beyond 64 bits
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text = to_nonempty_text(column.cast(pa.large_string()).dictionary_encode().cast(_TEXT))
            return text.codes.astype(np.int64), text.values
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{where}: some are no ids: expected whole numbers of 64 bits, or text") from error
    raise UserError(f"{where} is a column of {column.type}: expected whole numbers, or text, a row a click")


def _times(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, str]:
    """Times in milliseconds, and in words how they are written."""
    column = decoded(column)
    kind = column.type
    try:
        if is_own_time(kind):
            times = to_numpy(own_times(column))
            if not (np.abs(times, dtype=np.float64) < MOST_SECONDS / MILLISECONDS).all():
                raise ValueError("beyond all times")
            return times, "Parquet's own type"
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            times = to_numpy(column.cast(pa.float64(), safe=False))
            if not np.isfinite(times).all():
                raise UserError(f"{where}: some are no numbers: leave out such rows")
            if kind in (pa.float16(), pa.float32()) and (np.abs(times) >= exact_below(kind.to_pandas_dtype())).any():
                raise UserError(f"{where}: numbers of type {kind} have lost digits: write times in 64 bits")
            return milliseconds(times, where)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text = column.cast(pa.large_string()).dictionary_encode().cast(_TEXT)
            return time_kind("iso").convert(text), "ISO 8601"
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{where}: some are no times: expected numbers, dates, or text such as 2019-10-01T23:59:59Z"
        ) from error
    raise UserError(f"{where} is a column of {kind}: expected numbers, dates, or text such as 2019-10-01T23:59:59Z")


def is_own_time(kind: pa.DataType) -> bool:
    """Whether a column of a type has times that Parquet knows to be times."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def own_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Such times as milliseconds since the epoch, int64; in UTC where they have no zone."""
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return column.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64())


def damaged(path: Path) -> UserError:
    return UserError(f"cannot read {path}: it is a Parquet file that is damaged or of an uncommon kind")
