"""From the lines of a log to sessions: its users cut where they pause, its clicks in an order, as the flags say.

Clicks of a session at the same time are in the order of the log, of the items' ids, or of the items' first appearance.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clicks.clickfile import Clicks
from clicks.clicklog import NO_CLICK, sessions_of_users
from clicks.integerids import integers_of, with_integer_ids
from clicks.order import order_by_session

MINUTE = 60_000  # milliseconds
BY_LINE, BY_ID, BY_APPEARANCE = ORDERS = ("log", "id", "appearance")


@dataclass(frozen=True)
class Handling:
    """What the flags of these names ask for.

    Attributes:
        whole_seconds: cut off the fractions of seconds, before anything else.
        sessions_per_file: sessions (or users) of one id in two files are two.
        session_gap: the log has users; a session ends with a longer pause, in milliseconds. None: it has sessions.
        cut_first: pauses are those between all of a user's lines, clicks or not.
        order: of clicks at the same time, one of ``ORDERS``; by appearance, users come in the order of theirs, too.
    """

    whole_seconds: bool = False
    sessions_per_file: bool = False
    session_gap: int | None = None
    cut_first: bool = False
    order: str = BY_LINE

    @classmethod
    def of(cls, flags: Namespace) -> "Handling":
        gap = None if flags.session_gap is None else round(flags.session_gap * MINUTE)
        switches = bool(flags.whole_seconds), bool(flags.sessions_per_file)
        return cls(*switches, gap, bool(flags.cut_first), flags.order or BY_LINE)


def sessions_of(lines: Clicks, file_ends: Sequence[int], how: Handling) -> Clicks:
    """The clicks of some files, in sessions.

    Args:
        lines: those of all files, in their order, as :func:`clicks.clicklog.read_events` or ``read_raw_clicks`` give
            them: ids are text or integers. Their arrays may be used for the result.
        file_ends: where each file's lines end.
        how: what is to be done.

    Returns:
        The clicks, with integers in place of text where these can stand for it. In the order of their lines if nothing
        asks for another.
    """
    if how.whole_seconds:
        lines.time[:] -= lines.time % 1000
    lines = _items_by_appearance(lines) if how.order == BY_APPEARANCE else _by_id(lines, items=how.order == BY_ID)
    if how.sessions_per_file:
        lines = replace(lines, session=_of_their_files(lines.session, file_ends), session_names=None)
    if how.order != BY_LINE:
        lines = _tied_by_item(lines.reordered(order_by_session(lines.session, lines.time)))
    if how.session_gap is not None:
        lines = sessions_of_users(lines, how.session_gap)
    if how.cut_first:
        lines = lines.select(lines.item != NO_CLICK)
    return with_integer_ids(lines)


def _tied_by_item(clicks: Clicks) -> Clicks:
    """Clicks by session and time, those of a session at one time by item, too; in the arrays that they have."""
    as_before = (clicks.session[1:] == clicks.session[:-1]) & (clicks.time[1:] == clicks.time[:-1])
    tied = np.append(as_before, False)
    tied[1:] |= as_before
    places = np.flatnonzero(tied)
    session, item, time = clicks.session[places], clicks.item[places], clicks.time[places]
    by_item = places[np.lexsort((item, time, session))]
    clicks.item[places] = clicks.item[by_item]
    if clicks.line is not None:
        clicks.line[places] = clicks.line[by_item]
    return clicks


def _items_by_appearance(clicks: Clicks) -> Clicks:
    """Clicks with items numbered by their first appearance, as those that are text are already."""
    if clicks.item_names is not None:
        return clicks
    item, ids = pd.factorize(clicks.item)
    return replace(clicks, item=item, item_names=pa.array(ids))


def _by_id(clicks: Clicks, items: bool) -> Clicks:
    """Clicks with sessions numbered in the order of their ids, if these are integers; if asked, items in any case."""
    if clicks.session_names is not None and (ids := integers_of(clicks.session_names)) is not None:
        session, session_names = _renumbered(clicks.session, clicks.session_names, pa.array(ids))
        clicks = replace(clicks, session=session, session_names=session_names)
    if items and clicks.item_names is not None:
        ids = integers_of(clicks.item_names)
        by = clicks.item_names if ids is None else pa.array(ids)
        item, item_names = _renumbered(clicks.item, clicks.item_names, by)
        clicks = replace(clicks, item=item, item_names=item_names)
    return clicks


def _renumbered(numbers: np.ndarray, names: pa.Array, by: pa.Array) -> tuple[np.ndarray, pa.Array]:
    order = pc.array_sort_indices(by)
    rank = np.empty(len(names) + 1, dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(names))
    rank[NO_CLICK] = NO_CLICK
    return rank[numbers], names.take(order)


def _of_their_files(session: np.ndarray, file_ends: Sequence[int]) -> np.ndarray:
    """Sessions numbered from 1, file by file, each file's in the order of their ids."""
    numbers = np.empty(len(session), dtype=np.int64)
    start = n_sessions = 0
    for end in file_ends:
        ids, position = np.unique(session[start:end], return_inverse=True)
        numbers[start:end] = position + n_sessions + 1
        start, n_sessions = end, n_sessions + len(ids)
    return numbers
