"""The columns of clicks that the field already has: by which names they are known, and what their times count.

A name is known in any case, with or without ``_`` and blanks: ``SessionId``, ``session_id``, ``SESSION ID``. A typed
name as RecBole writes it, ``session_id:token``, is known by what stands before the colon.
"""

import re
from collections.abc import Sequence

import numpy as np

from clicks.clickfile import PREPARED_COLUMNS
from terminal.errors import UserError, listed

NAMES = {
    "SessionID": ("sessionid", "session"),
    "ItemID": ("itemid", "item"),
    "Time": ("time", "timestamp", "ts"),
}
_FIRST_MILLISECONDS = 1e11  # as seconds, the year 5138; as milliseconds, 1973
_FIRST_MICROSECONDS = 1e14  # as milliseconds, the year 5138


def known_columns(names: Sequence[str]) -> list[str | None]:
    """Which of ``PREPARED_COLUMNS`` each name stands for, if for any."""
    plain = [re.sub(r"[ _]", "", name.strip().partition(":")[0]).lower() for name in names]
    return [next((column for column, known in NAMES.items() if name in known), None) for name in plain]


def places_of_columns(names: Sequence[str], where: str) -> dict[str, int]:
    """Which column of a file holds sessions, which items, and which times.

    Args:
        names: of its columns, in order.
        where: the file, for a message.

    Raises:
        UserError: one is not there, or could be either of two.
    """
    known = known_columns(names)
    for column in PREPARED_COLUMNS:
        there = [name for name, meaning in zip(names, known, strict=True) if meaning == column]
        if len(there) > 1:
            raise UserError(f"{where}: {column} could be any of {listed(there)}: leave one, or rename the others")
        if not there:
            if any(":token_seq" in name for name in names):
                raise UserError(
                    f"{where}: a column holds lists of items, not clicks: take RecBole's file "
                    "with a line per click (session_id:token, item_id:token, timestamp:float)"
                )
            of_users = ", or let preprocessing.py cut the clicks of users" if column == "SessionID" else ""
            raise UserError(
                f"{where}: no column of {listed(names)} is named {column}, {' or '.join(_hint(column))}: "
                f"rename the one that is meant{of_users}"
            )
    return {column: known.index(column) for column in PREPARED_COLUMNS}


def _hint(column: str) -> tuple[str, str]:
    return {"SessionID": ("session_id", "session"), "ItemID": ("item_id", "item"), "Time": ("timestamp", "ts")}[column]


def milliseconds(times: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Times as milliseconds, int64, and the name of the unit that their size tells: seconds or milliseconds.

    Args:
        times: int64, or finite float64.
        where: the file and column, for a message.

    Raises:
        UserError: they are neither, or some look like the one and some like the other.
    """
    size = np.abs(times, dtype=np.float64)
    least, most = size.min(initial=np.inf), size.max(initial=0)
    if most < _FIRST_MILLISECONDS:
        return np.rint(times * 1000.0).astype(np.int64), "seconds"
    if most >= _FIRST_MICROSECONDS:
        raise UserError(
            f"{where}: {times[size.argmax()]} is no time in seconds or milliseconds: divide the column first"
        )
    if least < _FIRST_MILLISECONDS:
        raise UserError(
            f"{where}: {times[size.argmin()]} looks like seconds and {times[size.argmax()]} like milliseconds: write "
            "all times in one unit"
        )
    return np.rint(times).astype(np.int64), "milliseconds"
