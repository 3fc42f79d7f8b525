"""Clicks that the field already has as text with a header: session-rec's, the authors', RecBole's ``.inter``.

Separated by tab, comma, semicolon or ``|``; columns in any order, by the names in :mod:`clicks.columns`; others are
ignored.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from clicks.clickfile import Clicks
from clicks.columns import known_columns, milliseconds, places_of_columns
from clicks.delimited import lines, read_columns
from clicks.integerids import with_integer_ids
from clicks.textkinds import PLAIN_TEXT, ColumnKind, Layout, to_numpy
from clicks.times import time_kind

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}


def _is_number(text: str) -> bool:
    text = text.strip(" \t")
    return bool(re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text)) and abs(float(text)) < 1e300


def _finite(column: pa.ChunkedArray) -> np.ndarray:
    times = to_numpy(column)
    if not np.isfinite(times).all():
        raise ValueError("no time")
    return times


_NUMBER = ColumnKind(pa.float64(), "seconds or milliseconds since the epoch, as in the first line", _is_number, _finite)
_ISO = time_kind("iso")


def separator_of(header: str) -> str | None:
    """What separates the names of a header, or None where a line has not two names of clicks' columns."""

    def n_known(separator: str) -> int:
        return sum(column is not None for column in known_columns(_names(header, separator)))

    best = max(SEPARATORS, key=n_known)
    return best if n_known(best) >= 2 else None


def layout_of(path: Path, header: str, separator: str) -> tuple[Layout, bool]:
    """How a file is laid out, its columns named as in the prepared format; and whether its times are numbers.

    Raises:
        UserError: a column is not there, or could be either of two.
    """
    names = _names(header, separator)
    places = places_of_columns(names, f"{path}, line 1")
    layout = Layout(_as_prepared(names, places), {}, has_header=True, separator=separator, quoted=True)
    first = next((line for number, line in enumerate(lines(path)) if number and line), "")
    values = dict(zip(layout.names, layout.split(first), strict=False))
    is_number = _is_number(values.get("Time", "0").strip('"'))
    kinds = {"SessionID": PLAIN_TEXT, "ItemID": PLAIN_TEXT, "Time": _NUMBER if is_number else _ISO}
    return Layout(layout.names, kinds, has_header=True, separator=separator, quoted=True), is_number


def read_table(path: Path, header: str, separator: str) -> tuple[Clicks, str]:
    """The clicks of a file in the order of its lines, and in words as what it was read.

    Raises:
        UserError: a column is not there, or a line is no click.
    """
    layout, is_number = layout_of(path, header, separator)
    columns = read_columns(path, layout)
    time, unit = columns.pop("Time"), "ISO 8601"
    if is_number:
        time, unit = milliseconds(time, f"{path}, Time")
    session, item = columns["SessionID"], columns["ItemID"]
    clicks = Clicks(session.codes.astype(np.int64), item.codes.astype(np.int64), time, session.values, item.values)
    words = f"clicks of a table with {SEPARATORS[separator]}, times in {unit}"
    return with_integer_ids(clicks), words


def _names(header: str, separator: str) -> list[str]:
    return [name.strip().strip('"') for name in header.split(separator)]


def _as_prepared(names: list[str], places: dict[str, int]) -> list[str]:
    """The names of the prepared format in their places, and for all other columns names that cannot be theirs."""
    at = {place: column for column, place in places.items()}
    return [at.get(place, f"{place + 1}: {name}") for place, name in enumerate(names)]
