"""Click logs of any shop: text with a header, a line per event, its columns and its format of time named by the user.

An id is its text, kept as it is. Where all ids of a column are plain integers (no leading zeros, at most 64 bits) they
are held as such; one that is not makes the column text. Lines without an item or without a session are no clicks: they
are left out and counted, as are those that a filter does not keep. A log that has users in place of sessions is cut
into sessions where a user pauses.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clicks.clickfile import Clicks
from clicks.delimited import first_line, read_columns, stream_columns
from clicks.textkinds import (
    MILLISECONDS,
    TEXT_OR_NOTHING,
    ColumnKind,
    Layout,
    Text,
    numeric_time,
    text_of,
    why_not_utf8,
)
from terminal.errors import UserError, did_you_mean, listed, warn

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)
ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r" ?(?:Z|UTC|([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9]))?)?)?"
)
COMPACT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})(?=[^0-9]|$)")  # 20240301T100000Z
UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
DIFFERENCE = numeric_time(MILLISECONDS, "a number of milliseconds")
PARSED_AT_ONCE = 2**16
AT_ONCE = 2**20
STREAMED_AT_ONCE = 2**25  # bytes: an id that comes often is told once in each
NULLS = ("", "NA", "NULL", "null", "NaN", "nan", "None", r"\N")  # what stands for no id
NO_CLICK = -1  # in the place of an item; as an index it is the last place, and text is numbered from 0


def from_iso(text: str) -> int:
    """Milliseconds since the epoch of a date or a time in ISO 8601, in UTC where it names no offset.

    The clock may follow after T or a space; seconds and their fraction may be missing; Z, UTC, or an offset may follow.
    ``20191001T235959Z`` is one, too.

    Raises:
        ValueError: it is none.
    """
    match = ISO.fullmatch(COMPACT.sub(r"\1-\2-\3T\4:\5:\6", text, 1) if text[4:5] != "-" else text)
    if match is None:
        raise ValueError(text)
    *clock, fraction, sign, hours, minutes = match.groups()
    time = datetime(*(int(part or 0) for part in clock), tzinfo=timezone.utc)
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    return (time - EPOCH + (offset if sign == "-" else -offset)) // MILLISECOND + int(
        (fraction or "")[:3].ljust(3, "0")
    )


def from_pattern(text: str, pattern: str) -> int:
    """Milliseconds since the epoch of a time by a pattern of ``strptime``, in UTC where the pattern has no offset.

    Raises:
        ValueError: it does not fit the pattern, or its zone has another name than UTC or GMT.
    """
    time = datetime.strptime(text, pattern)
    if "%Z" in pattern and not re.search("UTC|GMT", text, re.IGNORECASE):
        raise ValueError(text)  # Python knows such names of this machine's zone and leaves the offset out
    return ((time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - EPOCH) // MILLISECOND


def time_kind(time_format: str) -> ColumnKind:
    """What a column of times in a format holds: one of ``UNITS``, ``iso``, or a pattern of ``strptime``.

    Raises:
        ValueError: it is none of them.
    """
    if time_format in UNITS:
        return replace(numeric_time(UNITS[time_format], f"{time_format} since the epoch"), remark=other_unit)
    if time_format == "iso":
        return _parsed_time("a date or time such as 2019-10-01 or 2019-10-01 23:59:59 UTC", from_iso)
    try:
        some_time = datetime(2019, 10, 31, 23, 59, 58, tzinfo=timezone.utc)
        same_day = datetime.strptime(some_time.strftime(time_format), time_format).date() == some_time.date()
    except (ValueError, re.error) as error:
        raise ValueError(f"{time_format!r} is not a pattern that Python's strptime knows: {error}") from error
    if not same_day:
        raise ValueError(
            f"{time_format!r} is not one of {', '.join(UNITS)}, iso, or a pattern with a date such as "
            "'%Y-%m-%d %H:%M:%S'"
        )
    return _parsed_time(f"a time by {time_format}", lambda text: from_pattern(text, time_format))


def other_unit(text: str) -> str:
    """The unit in which a number is a time between 1990 and 2100, as a remark; nothing if there is none."""
    if re.fullmatch("[0-9]{9,20}", text):
        for unit, seconds in UNITS.items():
            if 631_152_000 <= int(text) * seconds < 4_102_444_800:
                return f" (these look like {unit}: --time_format {unit})"
    return ""


def _parsed_time(expected: str, parse: Callable[[str], int]) -> ColumnKind:
    def fits(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    def convert(column: Text) -> np.ndarray:
        times = np.empty(len(column.values), dtype=np.int64)
        for first in range(0, len(times), PARSED_AT_ONCE):
            part = slice(first, first + PARSED_AT_ONCE)
            times[part] = [parse(text) for text in column.values[part].to_pylist()]
        return times[column.codes]

    return text_of(expected, fits, convert)


@dataclass(frozen=True)
class LogFormat:
    """Where a click log has what.

    Attributes:
        session: name of the column of sessions, or of users.
        time: that of times; or ``DATES+MILLISECONDS``, where a second column has milliseconds to add to the first.
        item: that of items.
        time_format: of times, see :func:`time_kind`.
        separator: between columns, a single ASCII character.
        keep: by column, the values of the lines to keep.
        first_date: milliseconds are added to the earliest date of the click's session, not to that of its line.
        nulls: what stands for no session and no item, beside nothing at all.
    """

    session: str
    time: str
    item: str
    time_format: str
    separator: str = ","
    keep: dict[str, list[str]] = field(default_factory=dict)
    first_date: bool = False
    nulls: Sequence[str] = NULLS


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

    def without(self, log: "LogFormat") -> dict[str, int]:
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
    time, *differences = map(np.concatenate, zip(*(part.times for part in parts), strict=True))
    for part in parts:
        part.times.clear()
    items = [part.item for part in parts]
    session, session_names = _one_numbering([part.session for part in parts])
    del parts
    item, item_names = _one_numbering(items)
    if log.first_date:
        earliest = np.full(len(session_names), np.iinfo(np.int64).max)
        np.minimum.at(earliest, session, time)
        time = earliest[session]
    for difference in differences:
        time += difference
    return Clicks(session, item, time, session_names, item_names), counts, ends


def _read_file(path: Path, log: LogFormat, skip_bad_lines: bool, all_lines: bool, counts: Counts) -> list[_Part]:
    columns_of_time, layout = _layout(path, log)
    values_of = {name: Counter() for name in log.keep}
    parts, n_lines = [], 0
    streamed = stream_columns(path, layout, STREAMED_AT_ONCE)
    for columns in [read_columns(path, layout, True)] if skip_bad_lines else streamed:
        session, item = columns[log.session], columns[log.item]
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


def _layout(path: Path, log: LogFormat) -> tuple[list[str], Layout]:
    """Which columns make the time, and how the file is laid out.

    Raises:
        UserError: the file lacks a column, or one is asked for twice.
    """
    layout = Layout((), {}, has_header=True, separator=log.separator, quoted=True)
    try:
        names = [layout.value(name) for name in layout.split(first_line(path))]
        if why := next(filter(None, map(why_not_utf8, names)), None):
            raise ValueError(f"a column's name is {why}")
    except ValueError as error:
        raise UserError(f"{path}, line 1: {error}") from error
    columns_of_time = [log.time] if log.time in names else log.time.split("+")
    if len(columns_of_time) > 2:
        raise UserError(f"{log.time} is more than two columns: expected a column of times, or DATES+MILLISECONDS")
    named = [log.session, log.item, *columns_of_time]
    if twice := [name for name in named if named.count(name) > 1]:
        raise UserError(f"--columns names {twice[0]!r} twice")
    if times := [name for name in log.keep if name in columns_of_time]:
        raise UserError(f"--keep {times[0]} filters by the column of times, which cannot be")
    kinds = dict.fromkeys((log.session, log.item, *log.keep), TEXT_OR_NOTHING)
    kinds |= dict(zip(columns_of_time, (time_kind(log.time_format), DIFFERENCE), strict=False))
    for name in kinds:
        if names.count(name) != 1:
            raise UserError(f"{path}, line 1: {_why_not_a_column(name, names, log.separator)}")
    return columns_of_time, replace(layout, names=names, kinds=kinds)


def _why_not_a_column(name: str, names: list[str], separator: str) -> str:
    """Why a name does not name a column."""
    if name in names:
        return f"there are {names.count(name)} columns {name!r}"
    hint = f" (is --sep {separator!r} right?)" if len(names) == 1 else did_you_mean(name, names)
    return f"there is no column {name!r}{hint}; there are {listed(names)}"


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
    """
    encoded = pa.chunked_array([part.values for part in parts]).dictionary_encode()
    names = encoded.chunk(0).dictionary  # that of every chunk is that of all: to unify them takes all in each
    numbers_of = [np.append(chunk.indices.to_numpy(), np.int32(NO_CLICK)) for chunk in encoded.chunks]
    codes = np.empty(sum(map(len, parts)), dtype=np.int32)
    occurs = np.zeros(len(names) + 1, dtype=np.bool_)
    end = 0
    for part, numbers in zip(parts, numbers_of, strict=True):
        start, end = end, end + len(part)
        codes[start:end] = numbers[part.codes]
        occurs[codes[start:end]] = True
    if not occurs[:NO_CLICK].all():
        numbers = np.cumsum(occurs, dtype=np.int32) - 1
        numbers[NO_CLICK] = NO_CLICK
        for first in range(0, len(codes), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            codes[part] = numbers[codes[part]]
        names = names.filter(pa.array(occurs[:NO_CLICK]))
    return codes, names


def with_integer_ids(clicks: Clicks) -> Clicks:
    """Clicks with integers in place of text that they can stand for, see the top of this file."""
    session, session_names = _as_integers(clicks.session, clicks.session_names)
    item, item_names = _as_integers(clicks.item, clicks.item_names)
    return replace(clicks, session=session, item=item, session_names=session_names, item_names=item_names)


def _as_integers(
    numbers: np.ndarray, names: pa.LargeStringArray | None
) -> tuple[np.ndarray, pa.LargeStringArray | None]:
    integers = None if names is None else integers_of(names)
    return (numbers, names) if integers is None else (integers[numbers], None)


def integers_of(names: pa.Array) -> np.ndarray | None:
    """Ids as int64, or int32 if that is enough, where that keeps every one of them as it is."""
    if pa.types.is_integer(names.type):
        return names.to_numpy()
    if not pc.all(pc.match_substring_regex(names, r"^(0|-?[1-9][0-9]{0,18})$")).as_py():
        return None
    try:
        integers = names.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:  # beyond 64 bits
        return None
    small = np.abs(integers.astype(np.float64)).max(initial=0) < 2**31
    return integers.astype(np.int32) if small else integers


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
