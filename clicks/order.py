"""The order of clicks by session and time: cheap where a log is in the order of time, as logs are."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array

from clicks.sidebyside import side_by_side

GATHERED_AT_ONCE = 2**22  # clicks
DENSE = 4  # session ids up to so many times the number of clicks are counted, others compared


def order_by_session(session: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The places of clicks by session, then time; those of a session at one time keep their order.

    Equals ``np.lexsort((time, session))``, in a quarter of its time on 100 million lines: clicks that are in the order
    of time are dealt to their sessions by counting.
    """
    in_order = bool(np.all(time[1:] >= time[:-1]))
    by_time = None if in_order else np.argsort(time, kind="stable")
    n, most = len(session), int(session.max(initial=0))
    if session.min(initial=0) < 0 or most > DENSE * n or max(most, n) >= 2**31 - 1:
        if by_time is None:
            return np.argsort(session, kind="stable")
        return by_time[np.argsort(session[by_time], kind="stable")]
    places = np.arange(n, dtype=np.int32)
    if by_time is None:
        order, row = places, session
    else:
        order = by_time.astype(np.int32)
        del by_time
        row = session[order]
    row = row.astype(np.int32, copy=False)
    return coo_array((order, (row, places)), (most + 1, n)).tocsr().data  # a row a session, its clicks as they came


def gathered(column: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``column[order]``, by all cores."""

    def parts() -> Iterator[slice]:
        for first in range(0, len(order), GATHERED_AT_ONCE):
            yield slice(first, first + GATHERED_AT_ONCE)

    result = np.empty(len(order), dtype=column.dtype)

    def gather(part: slice) -> None:
        result[part] = column[order[part]]

    for _ in side_by_side(gather, parts()):
        pass
    return result
