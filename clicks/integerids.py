"""Integers in place of text: where all ids of a column are plain integers, they are held as such.

Plain is: no leading zeros, no plus, at most 64 bits, so that the text can be had back. One that is not makes the column
text.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clicks.clickfile import Clicks


@cache
def exact_below(kind: type | np.dtype) -> int:
    """Whole numbers below it are exact as floating-point numbers of a kind, so they are the ids that they were."""
    return 2 ** (np.finfo(kind).nmant + 1)


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
