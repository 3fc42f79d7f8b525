"""Ids with leading zeros: 00005 and 5 are two items, so a column that has one such id is text."""

import re
from collections.abc import Iterable

import numpy as np


def columns_with_zeros(blocks: Iterable[bytes], places: dict[str, int]) -> set[str]:
    """Those columns of comma separated lines in which an id begins with a zero that a number does not need.

    Args:
        blocks: whole lines, some at a time.
        places: which column each name stands for, from 0.
    """
    value = rb'(?:"(?:[^"\r\n]|"")*"|[^,\r\n]*),'
    begins = {
        name: re.compile(rb'(?:^|[\r\n])(?:%s){%d}"?[ \t]*-?0[0-9]' % (value, place)) for name, place in places.items()
    }
    found: set[str] = set()
    for block in blocks:
        if _may_begin_with_zero(block):
            found |= {name for name in begins.keys() - found if begins[name].search(block)}
        if len(found) == len(begins):
            break
    return found


def _may_begin_with_zero(block: bytes) -> bool:
    """Whether a zero stands behind anything before it in ASCII but a point; bytes are compared many at a time."""
    content = np.frombuffer(block, dtype=np.uint8)
    begins = content[1:] == ord("0")
    begins &= content[:-1] < ord("0")
    begins &= content[:-1] != ord(".")
    return block.startswith((b"0", b"\xef\xbb\xbf0")) or bool(begins.any())
