"""Click files: what a click is, and reading and writing the two text formats that hold them.

* raw, as YooChoose published it: ``session,timestamp,item,category``, no header, timestamps such as
  ``2014-04-07T10:51:09.277Z``;
* prepared: comma separated with the header ``SessionID,ItemID,Time``, Time in seconds since the epoch (UTC).

Both are read plain or gzipped (``.gz``). A line that does not fit is refused with its number.
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from atomicfile import atomic_write
from errors import UserError, warn


@dataclass(frozen=True)
class _Field:
    """What a column holds: for Arrow, for a person, and for finding the line that holds something else."""

    arrow_type: pa.DataType
    expected: str
    fits: Callable[[str], bool]


def _is_integer(text: str) -> bool:
    text = text.strip(" \t")  # as Arrow does with numbers
    return bool(re.fullmatch(r"-?[0-9]{1,19}", text)) and -(2**63) <= int(text) < 2**63


def _is_seconds(text: str) -> bool:
    text = text.strip(" \t")
    decimal = re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text)
    return bool(decimal) and abs(float(text)) < MOST_SECONDS


def _is_timestamp(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}(\.[0-9]{1,3})?Z", text):
        return False
    try:
        datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return False
    return True


_INTEGER = _Field(pa.int64(), "an integer of at most 64 bits", _is_integer)
_SECONDS = _Field(pa.float64(), "seconds since the epoch", _is_seconds)
_TIMESTAMP = _Field(pa.timestamp("ms", "UTC"), "a time such as 2014-04-07T10:51:09.277Z", _is_timestamp)

RAW_COLUMNS = {"session": _INTEGER, "timestamp": _TIMESTAMP, "item": _INTEGER, "category": None}
PREPARED_COLUMNS = {"SessionID": _INTEGER, "ItemID": _INTEGER, "Time": _SECONDS}


MOST_SECONDS = 1e12  # past the year 30000
LONGEST_LINE = 10_000  # characters; Arrow has a limit, too
DAY = 86_400_000  # in milliseconds, the unit of all times


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
        """The clicks that a boolean mask or an index array picks, in its order; these very ones if it picks all."""
        if which.dtype == bool and which.all():
            return self
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


def read_raw_clicks(path: Path, skip_bad_lines: bool = False) -> Clicks:
    """Read a raw click file (see the top of this file) in the order of its lines.

    Args:
        path: the file.
        skip_bad_lines: leave out the lines that are not raw clicks and say on stderr how many they were.

    Raises:
        UserError: the file is missing or empty, or holds a line that is not a raw click.
    """
    table = _read_columns(path, RAW_COLUMNS, list(RAW_COLUMNS), has_header=False, skip_bad_lines=skip_bad_lines)
    columns = _Columns(table)
    del table
    return Clicks(
        session=columns.take("session"),
        item=columns.take("item"),
        time=columns.take("timestamp").astype(np.int64),
    )


def read_clicks(path: Path) -> Clicks:
    """Read a prepared click file (see the top of this file) in the order of its lines; further columns are ignored.

    Raises:
        UserError: the file is missing, empty, lacks a column, or holds a line that is not a click.
    """
    names = _header(path, PREPARED_COLUMNS)
    table = _read_columns(path, PREPARED_COLUMNS, names, has_header=True)
    columns = _Columns(table)
    del table
    seconds = columns.take("Time")
    if not (np.abs(seconds) < MOST_SECONDS).all():  # NaN and infinity are not, either
        raise UserError(f"{path}, line {next(_line_problems(path, names, PREPARED_COLUMNS, has_header=True))}")
    seconds *= 1000
    time = np.rint(seconds, out=seconds).astype(np.int64)
    return Clicks(session=columns.take("SessionID"), item=columns.take("ItemID"), time=time)


def stream_sessions(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the columns SessionID and ItemID of a file with a header, some whole sessions at a time, in bounded memory.

    The clicks of a session must be together and in order.

    Yields:
        Session ids and item ids, int64, of one length.

    Raises:
        UserError: the file is missing, lacks a column, or holds a line that is not a click.
    """
    fields = {name: PREPARED_COLUMNS[name] for name in ("SessionID", "ItemID")}
    names = _header(path, fields)
    held_session, held_item = np.zeros((2, 0), dtype=np.int64)
    if _has_hexadecimal(path):
        _refuse_bad_line(path, names, fields, has_header=True)
    try:
        for batch in pa.csv.open_csv(path, **_csv_options(fields, names, has_header=True)):
            session = np.concatenate((held_session, batch["SessionID"].to_numpy()))
            item = np.concatenate((held_item, batch["ItemID"].to_numpy()))
            last = session_offsets(session)[-2] if len(session) else 0  # the last session may go on in the next batch
            if last:
                yield session[:last], item[:last]
            held_session, held_item = session[last:], item[last:]
    except (pa.ArrowInvalid, OSError) as error:
        _refuse_bad_line(path, names, fields, has_header=True)
        raise UserError(f"cannot read {path}: {error}") from error
    if len(held_session):
        yield held_session, held_item


def write_click_files(files: dict[Path, Clicks]) -> None:
    """Write prepared click files, all of them or none.

    Raises:
        UserError: one cannot be written.
    """
    with ExitStack() as all_or_none:
        for path, clicks in files.items():
            file = all_or_none.enter_context(atomic_write(path))
            columns = dict(zip(PREPARED_COLUMNS, (clicks.session, clicks.item, clicks.time / 1000), strict=True))
            file.write((",".join(columns) + "\n").encode())
            pa.csv.write_csv(pa.table(columns), file, pa.csv.WriteOptions(include_header=False))
            file.flush()  # a full disk shows now, before any of the files takes its place


def _read_columns(
    path: Path, fields: dict[str, _Field | None], names: list[str], has_header: bool, skip_bad_lines: bool = False
) -> pa.Table:
    """Read those of the columns ``names`` that ``fields`` gives a type; the others may hold anything."""
    options = _csv_options(fields, names, has_header)
    try:
        table, error = pa.csv.read_csv(path, **options), None
    except (pa.ArrowInvalid, OSError) as arrows_error:
        table, error = None, arrows_error
    if table is None or _has_hexadecimal(path):
        if not skip_bad_lines:
            _refuse_bad_line(path, names, fields, has_header)
        elif next(_line_problems(path, names, fields, has_header), None):
            # no Python file: Arrow's threads may outlive the interpreter
            table = pa.csv.read_csv(pa.BufferReader(_usable_lines(path, names, fields)), **options)
    if table is None:
        raise UserError(f"cannot read {path}: {error}") from error
    if table.num_rows == 0:
        raise UserError(f"{path} holds no clicks")
    return table


class _Columns:
    """The columns of a table, each given up by Arrow when it is taken: two copies of all would not fit everywhere."""

    def __init__(self, table: pa.Table):
        self.columns = {name: table[name] for name in table.column_names}

    def take(self, name: str) -> np.ndarray:
        array = self.columns.pop(name).to_numpy()
        pa.default_memory_pool().release_unused()
        return array if array.flags.writeable else array.copy()


def _header(path: Path, fields: Iterable[str]) -> list[str]:
    """The column names in the first line of a file, which must be there."""
    names = _first_line(path).split(",")
    if missing := [name for name in fields if name not in names]:
        raise UserError(f"{path}, line 1: the header lacks {', '.join(missing)}; expected {','.join(fields)}")
    return names


def _csv_options(fields: dict[str, _Field | None], names: list[str], has_header: bool) -> dict[str, Any]:
    """How Arrow is to read those of the columns ``names`` that ``fields`` gives a type."""
    types = {name: field.arrow_type for name, field in fields.items() if field}
    return {
        "read_options": pa.csv.ReadOptions(column_names=names, skip_rows=1 if has_header else 0),
        "parse_options": pa.csv.ParseOptions(quote_char=False),
        "convert_options": pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
    }


def _has_hexadecimal(path: Path) -> bool:
    """Whether 0x stands anywhere in a file: Arrow reads 0x1f as 31, and an id with letters is no id."""
    end_of_last = b""
    with pa.input_stream(path) as stream:
        while content := stream.read(2**22):
            if b"0x" in content or b"0X" in content or (end_of_last + content[:1]).lower() == b"0x":
                return True
            end_of_last = content[-1:]
    return False


def _line_problems(
    path: Path, names: Sequence[str], fields: dict[str, _Field | None], has_header: bool
) -> Iterator[str]:
    """'NUMBER: what is wrong' of every line that is not a click.

    Raises:
        UserError: there are no lines.
    """
    number = 0
    for number, line in enumerate(_lines(path), start=1):
        if number > has_header and (problem := _line_problem(line, names, fields)):
            yield f"{number}: {problem}"
    if number <= has_header:
        raise UserError(f"{path} holds no clicks")


def _refuse_bad_line(path: Path, names: Sequence[str], fields: dict[str, _Field | None], has_header: bool) -> None:
    """Raise a UserError that names the first line that is not a click, if there is one."""
    if problem := next(_line_problems(path, names, fields, has_header), None):
        raise UserError(f"{path}, line {problem}")


def _usable_lines(path: Path, names: Sequence[str], fields: dict[str, _Field | None]) -> bytes:
    """The lines of a file without a header that are clicks; says on stderr what was skipped."""
    usable, n_bad, first_problem = io.BytesIO(), 0, ""
    for number, line in enumerate(_lines(path), start=1):
        if problem := _line_problem(line, names, fields):
            first_problem = first_problem or f"line {number}: {problem}"
            n_bad += 1
        else:
            usable.write(f"{line}\n".encode())
    if usable.tell() == 0:
        raise UserError(f"{path} holds no clicks")
    warn(f"{path}: skipped {n_bad:,} lines that are not clicks; {first_problem}")
    return usable.getvalue()


def _line_problem(line: str, names: Sequence[str], fields: dict[str, _Field | None]) -> str | None:
    """What keeps a line from being a click, in words, or None. An empty line is no click and no problem."""
    if not line:
        return None
    if len(line) > LONGEST_LINE:
        return f"it has {len(line):,} characters"
    values = line.split(",")
    if len(values) != len(names):
        return f"expected {len(names)} columns ({','.join(names)}), found {_shown(line)}"
    for name, value in zip(names, values, strict=True):
        field = fields.get(name)
        if field and not field.fits(value):
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
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _first_line(path: Path) -> str:
    for line in _lines(path):
        return line
    raise UserError(f"{path} holds no clicks")
