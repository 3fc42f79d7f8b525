"""Click logs of any shop as text with a header, Parquet or JSON lines, their columns and times named by the user.

An id is its text, kept as it is, see :mod:`clicks.integerids`. Lines without an item or without a session are no
clicks: they are left out and counted, as are those that a filter does not keep. A log that has users in place of
sessions is cut into sessions where a user pauses.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clicks.clickfile import Clicks, joined
from clicks.delimited import STREAMED_AT_ONCE, first_line, read_columns, stream_columns
from clicks.integerids import with_integer_ids
from clicks.jsonlines import is_json, json_blocks
from clicks.logformat import LogFormat
from clicks.opening import PARQUET, kind_of
from clicks.parquetlog import parquet_blocks
from clicks.sidebyside import side_by_side
from clicks.textkinds import Layout, Text, why_not_utf8
from terminal.errors import UserError, listed, warn
from terminal.memory import give_back_freed_memory

AT_ONCE = 2**20  # clicks
GIVEN_BACK_AFTER = 64  # parts
NO_CLICK = -1  # in the place of an item; as an index it is the last place, and text is numbered from 0


@dataclass
class Counts:
    """What became of the lines of a log: filtered out, without a session, without an item, or a click.

    ``nulls`` are the spellings of nothing that lines without a session or an item had, and how many had each.
    """

    filtered: int = 0
    without_session: int = 0
    without_item: int = 0
    clicks: int = 0
    nulls: Counter = field(default_factory=Counter)

    def without(self, log: LogFormat) -> dict[str, int]:
        """How many lines were left out for what they lack, in words that a number of lines goes before."""
        named = ", ".join(sorted(filter(None, self.nulls)))
        return {f"without {log.session}": self.without_session, f"without {log.item}": self.without_item} | (
            {f"of these with {named} in its place": sum(self.nulls.values()) - self.nulls[""]} if named else {}
        )


@dataclass
class _Part:
    """Some lines of a file: their sessions and items, both as text; what makes their times."""

    session: Text
    item: Text
    times: list[np.ndarray]


def read_log(paths: Sequence[Path], log: LogFormat, skip_bad_lines: bool = False) -> tuple[Clicks, Counts]:
    """Read the clicks of a log, in the order of its files and lines.

    Args:
        paths: files with the same columns, in whatever order each has them; plain or ``.gz``.
        log: where they have what.
        skip_bad_lines: leave out the lines that do not fit and say on stderr how many they were.

    Raises:
        UserError: a file is missing, empty, lacks a column, holds a line that does not fit, or there are no clicks.
    """
    clicks, counts, _ = read_events(paths, log, skip_bad_lines)
    return with_integer_ids(clicks), counts


def read_events(
    paths: Sequence[Path], log: LogFormat, skip_bad_lines: bool = False, all_lines: bool = False
) -> tuple[Clicks, Counts, list[int]]:
    """As :func:`read_log`, but all ids are text, numbered by their first appearance in any line of the files.

    Args:
        all_lines: keep all lines that have a session. Those that are no clicks have the item ``NO_CLICK``.

    Returns:
        The lines, what became of all lines, and where each file's lines end.
    """
    counts, parts, ends = Counts(), [], []
    for path in paths:
        parts += _read_file(path, log, skip_bad_lines, all_lines, counts)
        ends.append(sum(len(part.session) for part in parts))
    if counts.clicks == 0:
        left_out = f"of {counts.filtered + counts.without_session + counts.without_item:,} lines "
        left_out += f"--keep left out {counts.filtered:,}, " if log.keep else ""
        raise UserError(
            f"{' and '.join(map(str, paths))} holds no clicks: {left_out}{counts.without_session:,} have no "
            f"{log.session}, {counts.without_item:,} no {log.item}"
        )
    if len({len(part.times) for part in parts}) > 1:
        raise UserError(f"{' and '.join(map(str, paths))}: {log.time} is a column of one, and two columns of another")
    times = [list(of_parts) for of_parts in zip(*(part.times for part in parts), strict=True)]
    ids = [part.session for part in parts], [part.item for part in parts]
    del parts
    time, *differences = map(joined, times)
    (session, session_names), (item, item_names) = side_by_side(_one_numbering, ids)
    if log.first_date:
        earliest = np.full(len(session_names), np.iinfo(np.int64).max)
        np.minimum.at(earliest, session, time)
        time = earliest[session]
    for difference in differences:
        time += difference
    return Clicks(session, item, time, session_names, item_names), counts, ends


def _read_file(path: Path, log: LogFormat, skip_bad_lines: bool, all_lines: bool, counts: Counts) -> list[_Part]:
    columns_of_time, blocks = _blocks(path, log, skip_bad_lines)
    values_of = {name: Counter() for name in log.keep}
    parts, n_lines = [], 0
    for columns in blocks:
        session, item = columns[log.session], columns[log.item]
        if len(session) == 0:
            continue
        n_lines += len(session)
        kept = np.ones(len(session), dtype=np.bool_)
        for name, values in log.keep.items():
            kept &= _has_one_of(columns[name], values, values_of[name])
        with_session, with_item = _lines_with_a_value(session, log.nulls), _lines_with_a_value(item, log.nulls)
        is_click = kept & with_session & with_item
        _count_nulls(session, kept & ~with_session, counts.nulls)
        _count_nulls(item, kept & with_session & ~with_item, counts.nulls)
        counts.filtered += np.count_nonzero(~kept)
        counts.without_session += np.count_nonzero(kept & ~with_session)
        counts.without_item += np.count_nonzero(kept & with_session & ~with_item)
        counts.clicks += np.count_nonzero(is_click)
        items = np.where(is_click, item.codes, np.int32(NO_CLICK)) if all_lines else item.codes
        lines = np.flatnonzero(with_session if all_lines else is_click)
        times = [columns[name][lines] for name in columns_of_time]
        parts.append(_Part(Text(session.codes[lines], session.values), Text(items[lines], item.values), times))
    if n_lines == 0:
        raise UserError(f"{path} holds no clicks")
    for name, values in log.keep.items():
        if absent := [value for value in values if value not in values_of[name]]:
            found = listed(repr(value) for value, _ in values_of[name].most_common())
            warn(f"{path}: --keep {name}: no line has {', '.join(map(repr, absent))}; there are {found}")
    return parts


def _blocks(path: Path, log: LogFormat, skip_bad_lines: bool) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The columns that make the time, and blocks of all that are to be read, in whatever form the file is.

    Raises:
        UserError: as :func:`read_log`.
    """
    if kind_of(path) == PARQUET:
        return parquet_blocks(path, log, skip_bad_lines)
    first = first_line(path)
    if is_json(path, first):
        return json_blocks(path, log, skip_bad_lines)
    if not first.strip():
        raise UserError(f"{path}, line 1 is empty: expected the names of the columns, or a JSON object")
    layout = Layout((), {}, has_header=True, separator=log.separator, quoted=True)
    try:
        names = [layout.value(name) for name in layout.split(first)]
        if why := next(filter(None, map(why_not_utf8, names)), None):
            raise ValueError(f"a column's name is {why}")
    except ValueError as error:
        raise UserError(f"{path}, line 1: {error}") from error
    of_time, kinds = log.columns_among(names, f"{path}, line 1", is_text=True)
    layout = replace(layout, names=names, kinds=kinds)
    if skip_bad_lines:
        return of_time, iter([read_columns(path, layout, skip_bad_lines)])
    return of_time, stream_columns(path, layout, STREAMED_AT_ONCE)


def _has_one_of(column: Text, values: list[str], values_of_lines: Counter) -> np.ndarray:
    """The lines whose value is among some; counts the values of all lines."""
    there = column.values.to_pylist()
    values_of_lines.update(dict(zip(there, np.bincount(column.codes, minlength=len(there)).tolist(), strict=True)))
    return np.isin(column.codes, [code for code, value in enumerate(there) if value in values])


def _lines_with_a_value(column: Text, nulls: Sequence[str]) -> np.ndarray:
    is_null = pc.is_in(column.values, pa.array(["", *nulls], pa.large_string()))
    null_codes = np.flatnonzero(is_null.to_numpy(zero_copy_only=False))
    with_value = np.ones(len(column), dtype=np.bool_)
    for code in null_codes.tolist():
        with_value &= column.codes != code
    return with_value


def _count_nulls(column: Text, lines: np.ndarray, counter: Counter) -> None:
    codes, numbers = np.unique(column.codes[lines], return_counts=True)
    counter.update(
        {column.values[code].as_py(): number for code, number in zip(codes.tolist(), numbers.tolist(), strict=True)}
    )


def _one_numbering(parts: list[Text]) -> tuple[np.ndarray, pa.LargeStringArray]:
    """The ids of several parts as numbers, int32, and the text of each; text that no line has is left out.

    Numbers are in the order of first appearance, that of text that was left out included. ``NO_CLICK`` stays as it is.
    The parts are used up: there is not always room for them and for the result.
    """
    codes_of = [part.codes for part in parts]
    values = pa.chunked_array([part.values for part in parts])
    parts.clear()
    encoded = values.dictionary_encode()
    del values
    names = encoded.chunk(0).dictionary  # that of every chunk is that of all: to unify them takes all in each
    codes = np.empty(sum(map(len, codes_of)), dtype=np.int32)
    occurs = np.zeros(len(names) + 1, dtype=np.bool_)
    end = 0
    for place, chunk in enumerate(encoded.chunks):
        of_part, codes_of[place] = codes_of[place], None
        start, end = end, end + len(of_part)
        codes[start:end] = np.append(chunk.indices.to_numpy(), np.int32(NO_CLICK))[of_part]
        occurs[codes[start:end]] = True
        if place % GIVEN_BACK_AFTER == 0:
            give_back_freed_memory()
    if not occurs[:NO_CLICK].all():
        numbers = np.cumsum(occurs, dtype=np.int32) - 1
        numbers[NO_CLICK] = NO_CLICK
        for first in range(0, len(codes), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            codes[part] = numbers[codes[part]]
        names = names.filter(pa.array(occurs[:NO_CLICK]))
    return codes, names


def sessions_of_users(clicks: Clicks, gap: int) -> Clicks:
    """Cut the clicks of every user into sessions: one ends where the next click comes more than a gap later.

    Args:
        clicks: with users in place of sessions; brought into order in the arrays that they have.
        gap: in milliseconds.

    Returns:
        The clicks by user, then time; sessions are numbered from 1 in this order.
    """
    clicks = clicks.sorted(in_place=True)
    begins = np.ones(len(clicks), dtype=np.bool_)
    begins[1:] = (clicks.session[1:] != clicks.session[:-1]) | (np.diff(clicks.time) > gap)
    numbers = np.cumsum(begins, dtype=np.int32 if len(clicks) < 2**31 else np.int64)
    return replace(clicks, session=numbers, session_names=None)
