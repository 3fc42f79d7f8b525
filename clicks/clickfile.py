"""Click files: what a click is, and reading and writing the two text formats that hold them.

* raw, as YooChoose published it: ``session,timestamp,item,category``, no header, timestamps such as
  ``2014-04-07T10:51:09.277Z``, ids that are integers;
* prepared: comma separated with the header ``SessionID,ItemID,Time``, Time in seconds since the epoch (UTC). Ids are
  integers, or text: a column is text if its first id stands in quotes or is no integer, or if any has a leading zero.

Both are read plain or compressed, see :mod:`clicks.opening`. A line that does not fit is refused with its number.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from clicks.delimited import STREAMED_AT_ONCE, blocks_of_lines, first_line, lines, read_columns, stream_columns
from clicks.leadingzeros import columns_with_zeros
from clicks.order import gathered, order_by_session
from clicks.sidebyside import side_by_side
from clicks.textkinds import INTEGER, PLAIN_TEXT, SECONDS, ColumnKind, Layout, Text, is_integer, to_numpy
from terminal.atomicfile import write_together
from terminal.errors import UserError
from terminal.memory import give_back_freed_memory

RAW_COLUMNS = ("session", "timestamp", "item", "category")
PREPARED_COLUMNS = ("SessionID", "ItemID", "Time")
DAY = 86_400_000  # in milliseconds, the unit of all times
WRITTEN_AT_ONCE = 2**20  # clicks


_ZONED_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,3})?)?)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
)


def _is_timestamp(text: str) -> bool:
    """Whether Arrow, too, takes a text for a time with a zone."""
    match = _ZONED_TIME.fullmatch(text)
    try:
        return bool(match and datetime(*(int(part or 0) for part in match.groups())))
    except ValueError:
        return False


_TIMESTAMP = ColumnKind(
    pa.timestamp("ms", "UTC"),
    "a time such as 2014-04-07T10:51:09.277Z",
    _is_timestamp,
    lambda column: to_numpy(column).view(np.int64),
)
_RAW = Layout(
    RAW_COLUMNS,
    {"session": INTEGER, "timestamp": _TIMESTAMP, "item": INTEGER},
    has_header=False,
    hint="if it is a log of another kind, with a header, name its columns with --columns",
)
_INTEGER_LIKE_THE_FIRST = replace(
    INTEGER, expected=f"{INTEGER.expected}, as in the first line (ids that are text stand in quotes)"
)


@dataclass(frozen=True)
class Clicks:
    """Clicks as three parallel arrays of one length.

    Ids that are integers are there themselves. Ids that are text are numbered from 0, and a table has the text of each:
    ``session_names[session]``, ``item_names[item]``.

    Attributes:
        session: session ids or their numbers, int64, or int32 where that is enough.
        item: item ids or their numbers, likewise.
        time: milliseconds since the epoch (UTC), int64.
        session_names: text by number, each once; None if session ids are integers.
        item_names: text by number, each once; None if item ids are integers.
        line: which line of its file each click is, from 0; None where nobody asks, see ``Protocol.drop_by_line``.
    """

    session: np.ndarray
    item: np.ndarray
    time: np.ndarray
    session_names: pa.LargeStringArray | None = None
    item_names: pa.LargeStringArray | None = None
    line: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.session)

    def select(self, which: np.ndarray) -> "Clicks":
        """The clicks that a boolean mask or an index array picks, in its order; these very ones if it picks all."""
        if which.dtype == bool and which.all():
            return self
        line = None if self.line is None else self.line[which]
        return replace(self, session=self.session[which], item=self.item[which], time=self.time[which], line=line)

    def reordered(self, order: np.ndarray) -> "Clicks":
        """The clicks in another order, in the arrays that they had: there is not always room for two copies of all."""
        for column in (self.session, self.item, self.time, self.line):
            if column is not None:
                column[:] = gathered(column, order)
        return self

    def session_ids(self, which: np.ndarray) -> np.ndarray:
        """The session ids of the clicks that an index array picks: int64, or str as objects."""
        ids = self.session[which]
        return (
            ids.astype(np.int64)
            if self.session_names is None
            else self.session_names.to_numpy(zero_copy_only=False)[ids]
        )

    def sorted(self, in_place: bool = False) -> "Clicks":
        """The clicks by session (see ``session``), then by time; clicks of a session at one time keep their order.

        Args:
            in_place: in the arrays that they had, see :meth:`reordered`.
        """
        later_session = self.session[1:] > self.session[:-1]
        later_time = (self.session[1:] == self.session[:-1]) & (self.time[1:] >= self.time[:-1])
        if np.all(later_session | later_time):
            return self
        order = order_by_session(self.session, self.time)
        return self.reordered(order) if in_place else self.select(order)


def session_offsets(session: np.ndarray) -> np.ndarray:
    """Where each session starts in an array of session ids that keeps every session together.

    Returns:
        ``[n_sessions + 1]`` int64: session ``s`` is ``offsets[s]:offsets[s + 1]``.
    """
    if len(session) == 0:
        return np.zeros(1, dtype=np.int64)
    first_clicks = np.flatnonzero(session[1:] != session[:-1]) + 1
    return np.concatenate(([0], first_clicks, [len(session)]))


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Parts of a column as one, in the memory of the column alone once it is there."""
    column = np.concatenate(parts)
    parts.clear()
    give_back_freed_memory()
    return column


def concatenated(parts: Sequence[Clicks]) -> Clicks:
    """The clicks of several files, one after another; an id is the same in all of them."""
    if len(parts) == 1:
        return parts[0]
    session, session_names = _one_numbering([(part.session, part.session_names) for part in parts])
    item, item_names = _one_numbering([(part.item, part.item_names) for part in parts])
    line = None if parts[0].line is None else np.concatenate([part.line for part in parts])
    return Clicks(session, item, np.concatenate([part.time for part in parts]), session_names, item_names, line)


def _one_numbering(
    parts: list[tuple[np.ndarray, pa.LargeStringArray | None]],
) -> tuple[np.ndarray, pa.LargeStringArray | None]:
    """Ids and names of several files as ids and names of all."""
    if all(names is None for _, names in parts):
        return np.concatenate([ids for ids, _ in parts]), None
    numbers, texts = [], []
    for ids, names in parts:
        if names is None:
            ids, integers = pd.factorize(ids)
            names = pa.array(map(str, integers.tolist()), pa.large_string())
        numbers.append(ids)
        texts.append(names)
    number_of, names = pd.factorize(pa.chunked_array(texts).to_numpy())
    starts = np.cumsum([0, *map(len, texts)])
    ids = np.concatenate([number_of[start + number] for start, number in zip(starts[:-1], numbers, strict=True)])
    return ids.astype(np.int64), pa.array(names, pa.large_string())


def read_raw_clicks(path: Path, skip_bad_lines: bool = False) -> Clicks:
    """Read a raw click file (see the top of this file) in the order of its lines.

    Args:
        path: the file.
        skip_bad_lines: leave out the lines that are not raw clicks and say on stderr how many they were.

    Raises:
        UserError: the file is missing or empty, or holds a line that is not a raw click.
    """
    columns = read_columns(path, _RAW, skip_bad_lines)
    return Clicks(columns["session"], columns["item"], columns["timestamp"])


def read_clicks(path: Path) -> Clicks:
    """Read a prepared click file (see the top of this file) in the order of its lines; further columns are ignored.

    Raises:
        UserError: the file is missing, empty, lacks a column, or holds a line that is not a click.
    """
    names, first_click = _head(path, PREPARED_COLUMNS)
    kinds = {"Time": SECONDS} | _kinds_of_ids(path, names, first_click)
    if PLAIN_TEXT not in kinds.values():
        return _read_integers(path, _prepared(names, kinds))
    columns = read_columns(path, _prepared(names, kinds))
    session, session_names = _numbered(columns["SessionID"])
    item, item_names = _numbered(columns["ItemID"])
    return Clicks(session, item, columns["Time"], session_names, item_names)


def _read_integers(path: Path, layout: Layout) -> Clicks:
    """The clicks of a prepared file whose ids are integers, read in pieces, so that ids take as little as they can."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in PREPARED_COLUMNS}
    for columns in stream_columns(path, layout, STREAMED_AT_ONCE):
        for name, values in columns.items():
            is_small = name != "Time" and np.abs(values, dtype=np.float64).max() < 2**31
            parts[name].append(values.astype(np.int32) if is_small else values)
    if not parts["Time"]:
        raise UserError(f"{path} holds no clicks")
    return Clicks(*(joined(parts.pop(name)) for name in PREPARED_COLUMNS))


def _numbered(column: np.ndarray | Text) -> tuple[np.ndarray, pa.LargeStringArray | None]:
    return (column.codes.astype(np.int64), column.values) if isinstance(column, Text) else (column, None)


def stream_sessions(path: Path, text_items: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the columns SessionID and ItemID of a file with a header, some whole sessions at a time, in bounded memory.

    The clicks of a session must be together and in order.

    Args:
        path: the file.
        text_items: item ids are text, else integers. Session ids are what the first one is, as in prepared files.

    Yields:
        Session ids and item ids of one length: int64, or str as objects.

    Raises:
        UserError: the file is missing, lacks a column, or holds a line that is not a click.
    """
    names, first_click = _head(path, ("SessionID", "ItemID"))
    kinds = _kinds_of_ids(path, names, first_click)
    first_item = first_click.get("ItemID", "").strip('"')  # where items are integers, they may stand in quotes
    if kinds["ItemID"] is PLAIN_TEXT and not text_items and is_integer(first_item):
        text_items = bool(columns_with_zeros(blocks_of_lines(path), {"ItemID": names.index("ItemID")}))
    kinds["ItemID"] = PLAIN_TEXT if text_items else INTEGER
    held_session, held_item = (np.zeros(0, dtype=object if kind is PLAIN_TEXT else np.int64) for kind in kinds.values())
    for columns in stream_columns(path, _prepared(names, kinds)):
        ids = [column.per_line() if isinstance(column, Text) else column for column in columns.values()]
        session, item = np.concatenate((held_session, ids[0])), np.concatenate((held_item, ids[1]))
        last = session_offsets(session)[-2] if len(session) else 0  # the last session may go on in the next batch
        if last:
            yield session[:last], item[:last]
        held_session, held_item = session[last:], item[last:]
    if len(held_session):
        yield held_session, held_item


def columns_to_check(path: Path) -> Layout:
    """How to read of a file as :func:`stream_sessions` takes it the sessions, and the times where it has them.

    Raises:
        UserError: the file is missing, or lacks a column.
    """
    names, first_click = _head(path, ("SessionID", "ItemID"))
    times = {"Time": SECONDS} if "Time" in names else {}
    return _prepared(names, {"SessionID": _kinds_of_ids(path, names, first_click)["SessionID"]} | times)


def _head(path: Path, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The column names of a file with a header, and the values of its first click, in their quotes if they have some.

    Raises:
        UserError: the file is missing or empty, lacks a column that is wanted, or has one twice.
    """
    layout = _prepared((), {})
    names = [name.strip('"') for name in layout.split(first_line(path))]
    if missing := [name for name in wanted if name not in names]:
        raise UserError(f"{path}, line 1: the header lacks {', '.join(missing)}; expected {','.join(wanted)}")
    if twice := [name for name in PREPARED_COLUMNS if names.count(name) > 1]:
        raise UserError(f"{path}, line 1: there are {names.count(twice[0])} columns {twice[0]}: leave one")
    content = (line for number, line in enumerate(lines(path)) if number and line)
    values = layout.split(next(content, ""))
    return names, dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def _kinds_of_ids(path: Path, names: Sequence[str], first_click: dict[str, str]) -> dict[str, ColumnKind]:
    """The kinds of both columns of ids: by the first of each, and text if any has leading zeros."""
    kinds = {name: _kind_of(first_click.get(name)) for name in ("SessionID", "ItemID")}
    places = {name: names.index(name) for name, kind in kinds.items() if kind is not PLAIN_TEXT}
    return kinds | dict.fromkeys(columns_with_zeros(blocks_of_lines(path), places) if places else (), PLAIN_TEXT)


def _kind_of(first_id: str | None) -> ColumnKind:
    """The kind of a column of ids, by the first of them."""
    return _INTEGER_LIKE_THE_FIRST if first_id is None or is_integer(first_id) else PLAIN_TEXT


def _prepared(names: Sequence[str], kinds: dict[str, ColumnKind]) -> Layout:
    return Layout(names, kinds, has_header=True, quoted=True)


def write_click_files(files: dict[Path, Clicks]) -> None:
    """Write prepared click files, all of them or none; ids that are text stand in quotes.

    Raises:
        UserError: one cannot be written.
    """
    with write_together() as open_file:
        for path, clicks in files.items():
            with open_file(path) as file:
                write_clicks(file, clicks)


def write_clicks(file: BinaryIO, clicks: Clicks) -> None:
    """Write clicks in the prepared format."""

    def lines_of(first: int) -> pa.Buffer:
        part = slice(first, first + WRITTEN_AT_ONCE)
        columns: list[Any] = [
            ids[part] if names is None else names.take(pa.array(ids[part]))
            for ids, names in ((clicks.session, clicks.session_names), (clicks.item, clicks.item_names))
        ]
        table = pa.table(dict(zip(PREPARED_COLUMNS, (*columns, _in_seconds(clicks.time[part])), strict=True)))
        content = pa.BufferOutputStream()
        pa.csv.write_csv(table, content, pa.csv.WriteOptions(include_header=False))
        return content.getvalue()

    file.write((",".join(PREPARED_COLUMNS) + "\n").encode())
    for content in side_by_side(lines_of, range(0, len(clicks), WRITTEN_AT_ONCE)):
        file.write(content)


def _in_seconds(time: np.ndarray) -> np.ndarray:
    """Milliseconds as seconds: as integers where all are whole, for these are written faster and read no different."""
    return time // 1000 if (time % 1000 == 0).all() else time / 1000
