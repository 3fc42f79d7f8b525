"""Click files: what a click is, and reading and writing the two text formats that hold them.

* raw, as YooChoose published it: ``session,timestamp,item,category``, no header, timestamps such as
  ``2014-04-07T10:51:09.277Z``;
* prepared: comma separated with the header ``SessionID,ItemID,Time``, Time in seconds since the epoch (UTC).

Both are read plain or gzipped (``.gz``). A line that does not fit is refused with its number.
"""

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from atomicfile import atomic_write
from errors import UserError


@dataclass(frozen=True)
class _Field:
    """What a column holds: for Arrow, for a person, and for finding the line that holds something else."""

    arrow_type: pa.DataType
    expected: str
    pattern: re.Pattern


_INTEGER = _Field(pa.int64(), "an integer of at most 64 bits", re.compile(r"-?\d+"))
_SECONDS = _Field(pa.float64(), "seconds since the epoch", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"))
_TIMESTAMP = _Field(
    pa.timestamp("ms", "UTC"),
    "a time such as 2014-04-07T10:51:09.277Z",
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z"),
)

RAW_COLUMNS = {"session": _INTEGER, "timestamp": _TIMESTAMP, "item": _INTEGER, "category": None}
PREPARED_COLUMNS = {"SessionID": _INTEGER, "ItemID": _INTEGER, "Time": _SECONDS}


@dataclass(frozen=True)
class Clicks:
    """Clicks as three parallel arrays of one length.

    Attributes:
        session: session ids, int64.
        item: item ids, int64.
        time: milliseconds since the epoch (UTC), int64.
    """

    session: np.ndarray
    item: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.session)

    def select(self, which: np.ndarray) -> "Clicks":
        """The clicks that a boolean mask or an index array picks, in its order."""
        return Clicks(self.session[which], self.item[which], self.time[which])

    def sorted(self) -> "Clicks":
        """The clicks by session id, then by time; clicks of one session at one time keep their order."""
        later_session = self.session[1:] > self.session[:-1]
        later_time = (self.session[1:] == self.session[:-1]) & (self.time[1:] >= self.time[:-1])
        if np.all(later_session | later_time):
            return self
        return self.select(np.lexsort((self.time, self.session)))


def session_offsets(session: np.ndarray) -> np.ndarray:
    """Where each session starts in an array of session ids that keeps every session together.

    Returns:
        ``[n_sessions + 1]`` int64: session ``s`` is ``offsets[s]:offsets[s + 1]``.
    """
    if len(session) == 0:
        return np.zeros(1, dtype=np.int64)
    first_clicks = np.flatnonzero(session[1:] != session[:-1]) + 1
    return np.concatenate(([0], first_clicks, [len(session)]))


def read_raw_clicks(path: Path) -> Clicks:
    """Read a raw click file (see the top of this file) in the order of its lines.

    Raises:
        UserError: the file is missing, empty, or holds a line that is not a raw click.
    """
    names = _first_line(path).split(",")
    if len(names) != len(RAW_COLUMNS):
        raise UserError(f"{path}, line 1: expected {','.join(RAW_COLUMNS)}, found {_shown(','.join(names))}")
    table = _read_columns(path, RAW_COLUMNS, list(RAW_COLUMNS), has_header=False)
    return Clicks(
        session=table["session"].to_numpy(),
        item=table["item"].to_numpy(),
        time=table["timestamp"].cast(pa.int64()).to_numpy(),
    )


def read_clicks(path: Path) -> Clicks:
    """Read a prepared click file (see the top of this file) in the order of its lines; further columns are ignored.

    Raises:
        UserError: the file is missing, empty, lacks a column, or holds a line that is not a click.
    """
    names = _first_line(path).split(",")
    if missing := [name for name in PREPARED_COLUMNS if name not in names]:
        raise UserError(f"{path}, line 1: the header lacks {', '.join(missing)}; expected {','.join(PREPARED_COLUMNS)}")
    table = _read_columns(path, PREPARED_COLUMNS, names, has_header=True)
    seconds = table["Time"].to_numpy()
    usable = np.abs(seconds) < 1e12  # false for NaN and infinity; 1e12 s is past the year 30000
    if not usable.all():
        row = int(np.argmin(usable))
        raise UserError(f"{path}, line {row + 2}: Time is {seconds[row]}, expected {_SECONDS.expected}")
    return Clicks(
        session=table["SessionID"].to_numpy(),
        item=table["ItemID"].to_numpy(),
        time=np.rint(seconds * 1000).astype(np.int64),
    )


def write_clicks(path: Path, clicks: Clicks) -> None:
    """Write a prepared click file, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    columns = dict(zip(PREPARED_COLUMNS, (clicks.session, clicks.item, clicks.time / 1000), strict=True))
    with atomic_write(path) as file:
        file.write((",".join(columns) + "\n").encode())
        pa.csv.write_csv(pa.table(columns), file, pa.csv.WriteOptions(include_header=False))


def _read_columns(path: Path, fields: dict[str, _Field | None], names: list[str], has_header: bool) -> pa.Table:
    """Read those of the columns ``names`` that ``fields`` gives a type; the others may hold anything."""
    types = {name: field.arrow_type for name, field in fields.items() if field}
    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=names, skip_rows=1 if has_header else 0),
            parse_options=pa.csv.ParseOptions(quote_char=False),
            convert_options=pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
        )
    except (pa.ArrowInvalid, OSError) as error:
        for number, line in enumerate(_lines(path), start=1):
            if line and number > has_header and (problem := _line_problem(line, names, fields)):
                raise UserError(f"{path}, line {number}: {problem}") from error
        raise UserError(f"cannot read {path}: {error}") from error
    if table.num_rows == 0:
        raise UserError(f"{path} holds no clicks")
    return table


def _line_problem(line: str, names: Sequence[str], fields: dict[str, _Field | None]) -> str | None:
    """What keeps a line from being a click, in words, or None."""
    values = line.split(",")
    if len(values) != len(names):
        return f"expected {len(names)} columns ({','.join(names)}), found {_shown(line)}"
    for name, value in zip(names, values, strict=True):
        field = fields.get(name)
        fits = field is None or field.pattern.fullmatch(value)
        if not fits or (field is _INTEGER and not -(2**63) <= int(value) < 2**63):
            return f"{name} is {_shown(value)}, expected {field.expected}"
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a plain or gzipped text file, without their ends and without a byte-order mark."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            for line in file:
                yield line.rstrip("\n")
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _first_line(path: Path) -> str:
    for line in _lines(path):
        return line
    raise UserError(f"{path} is empty")
