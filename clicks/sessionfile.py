"""Sessions to recommend for, from a file of any form that is read: in bounded memory where its clicks are in order.

Where they are not, a file with times is sorted, and one without is refused.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clicks.clickfile import Clicks, columns_to_check, read_clicks, session_offsets, stream_sessions
from clicks.delimited import first_line, lines, stream_columns
from clicks.opening import PARQUET, kind_of
from clicks.recognised import is_own_format, read_prepared_clicks
from clicks.textkinds import Text
from terminal.errors import UserError


def read_sessions(path: Path, text_items: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Session ids and item ids of a file, whole sessions at a time, each session's clicks in order.

    Args:
        path: the file.
        text_items: item ids are text, else integers, if the file is one in the prepared format.

    Yields:
        Session ids and item ids of one length: int64, or str as objects.

    Raises:
        UserError: the file is unusable, or a session comes back and no times say how its clicks follow each other.
    """
    if kind_of(path) == PARQUET or not is_own_format(first_line(path)):
        yield _by_session(read_prepared_clicks(path))
        return
    disorder = _first_disorder(path)
    if disorder is None:
        yield from stream_sessions(path, text_items)
        return
    n_lines, session, is_timed = disorder
    if not is_timed:
        content = (number for number, line in enumerate(lines(path), start=1) if number > 1 and line)
        number = next(number for place, number in enumerate(content) if place == n_lines)
        raise UserError(
            f"{path}, line {number}: session {session} comes back after another one: bring its clicks together, or add "
            "a column Time to have them sorted"
        )
    print(f"{path}: its clicks are not in order, so they are sorted by Time within sessions", file=sys.stderr)
    yield _by_session(read_clicks(path))


def _first_disorder(path: Path) -> tuple[int, int | str, bool] | None:
    """The first click that comes too late: how many are before it, its session, and whether there are times."""
    layout = columns_to_check(path)
    seen: set[int | str] = set()
    n_before, last_session, last_time = 0, None, -np.inf
    for columns in stream_columns(path, layout):
        ids = columns["SessionID"]
        session = ids.per_line() if isinstance(ids, Text) else ids
        offsets = session_offsets(session)[:-1]
        for start, each in zip(offsets.tolist(), session[offsets].tolist(), strict=True):
            if each != last_session and each in seen:
                return n_before + start, each, "Time" in columns
            seen.add(each)
            if each != last_session:
                last_session, last_time = each, -np.inf
            if "Time" in columns and columns["Time"][start] < last_time:
                return n_before + start, each, True
        if "Time" in columns and len(session):
            time = columns["Time"]
            goes_back = np.flatnonzero((session[1:] == session[:-1]) & (time[1:] < time[:-1]))
            if len(goes_back):
                return n_before + int(goes_back[0]) + 1, session[goes_back[0]], True
            last_time = time[-1]
        n_before += len(session)
    return None


def _by_session(clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
    clicks = clicks.sorted()
    item = clicks.item if clicks.item_names is None else clicks.item_names.to_numpy(zero_copy_only=False)[clicks.item]
    return clicks.session_ids(np.arange(len(clicks))), item
